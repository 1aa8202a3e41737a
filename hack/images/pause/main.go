// Command pause does nothing until it is told to end. It is what holds a Pod's network while its containers come and go, on the real
// kubelet node of the cluster tests; a cluster's own nodes bring theirs.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	<-stop
}
