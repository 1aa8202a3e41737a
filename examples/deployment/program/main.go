// Command ticker stands for a worker that runs until it is stopped: it logs one line each second. WebAssembly knows no
// signals, so there is nothing to catch: the vehicle ends the program between two instructions.
package main

import (
	"fmt"
	"os"
	"time"
)

func main() {
	for tick := 1; ; tick++ {
		if _, err := fmt.Printf("tick %d\n", tick); err != nil {
			fmt.Fprintf(os.Stderr, "ticker: failed to write line: %v\n", err)
			os.Exit(1)
		}
		time.Sleep(time.Second)
	}
}
