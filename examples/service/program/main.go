// Command service is a small server as an ordinary container: it is configured by its environment and a file, says whether it lives and
// whether it is ready, and takes leave when it is asked to end.
//
//	service               serve until told to end
//	service prepare FILE  write FILE: for an init container
//	service note WORD     add WORD to the notes that / shows: for hooks
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Where the init container has left its file, and hooks leave their notes.
func work(name string) string { return filepath.Join(os.Getenv("WORK"), name) }

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "service:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 0:
		return serve()
	case len(args) == 2 && args[0] == "prepare":
		return os.WriteFile(args[1], []byte("prepared by "+os.Getenv("POD_NAME")+"\n"), 0o644)
	case len(args) == 2 && args[0] == "note":
		return note(args[1])
	}
	return fmt.Errorf("does not know what to do with %q", args)
}

func note(word string) error {
	file, err := os.OpenFile(work("notes"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(file, word); err != nil {
		return err
	}
	return file.Close()
}

// read gives a file's text in one line; one that is missing is none.
func read(path string) string {
	text, _ := os.ReadFile(path)
	return strings.Join(strings.Fields(string(text)), " ")
}

func serve() error {
	config := os.Getenv("CONFIG")
	mux := http.NewServeMux()
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if read(work("prepared")) == "" {
			http.Error(w, "not prepared", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "greeting=%s\nmotd=%s\nnotes=%s\n", os.Getenv("GREETING"), read(config), read(work("notes")))
	})
	server := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	fmt.Printf("serves as %s: %s; motd: %s\n", os.Getenv("POD_NAME"), os.Getenv("GREETING"), read(config))

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	seen := read(config)
	for {
		select {
		case err := <-ended:
			return err
		case <-stop:
			fmt.Printf("takes leave; notes: %s\n", read(work("notes")))
			leave, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			return server.Shutdown(leave)
		case <-time.After(500 * time.Millisecond):
			// A mounted ConfigMap changes while the program runs.
			if now := read(config); now != seen {
				seen = now
				fmt.Printf("motd: %s\n", seen)
			}
		}
	}
}
