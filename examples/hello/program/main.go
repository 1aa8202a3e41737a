// Command hello says which completion index it runs as, and leaves a file behind if it is told where.
package main

import (
	"flag"
	"fmt"
	"os"
	"path"
)

func main() {
	out := flag.String("out", "", "directory for hello.txt; without it nothing is written")
	flag.Parse()
	if err := greet(os.Getenv("JOB_COMPLETION_INDEX"), *out); err != nil {
		fmt.Fprintf(os.Stderr, "hello: %v\n", err)
		os.Exit(1)
	}
}

func greet(index, out string) error {
	if index == "" {
		return fmt.Errorf("failed to read index: JOB_COMPLETION_INDEX is not set; FleetJobs and Indexed Jobs set it")
	}
	line := fmt.Sprintf("hello from index %s\n", index)
	if out != "" {
		if err := os.WriteFile(path.Join(out, "hello.txt"), []byte(line), 0o644); err != nil {
			return fmt.Errorf("failed to write output: %w", err)
		}
	}
	if _, err := os.Stdout.WriteString(line); err != nil {
		return fmt.Errorf("failed to write line: %w", err)
	}
	return nil
}
