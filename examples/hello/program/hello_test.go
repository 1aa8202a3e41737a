package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestGreet_outDirectory_holdsLine(t *testing.T) {
	out := t.TempDir()
	if err := greet("2", out); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(out, "hello.txt"))
	if want := "hello from index 2\n"; err != nil || string(got) != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestGreet_noIndexOrDirectory_saysSo(t *testing.T) {
	if err := greet("", ""); err == nil || !strings.Contains(err.Error(), "JOB_COMPLETION_INDEX") {
		t.Errorf("no index: %v", err)
	}
	if err := greet("0", filepath.Join(t.TempDir(), "none")); err == nil || !strings.Contains(err.Error(), "hello.txt") {
		t.Errorf("no directory: %v", err)
	}
}
