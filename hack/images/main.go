// Command images makes an OCI image archive of one program, without a container engine.
//
//	images -program FILE -name NAME -ref REGISTRY/NAME:TAG -out FILE.tar
//
// Two layers: what the program needs of the machine that it was built on (the loader and the shared libraries, certificate authorities,
// the names of two users), and the program, with those that stand beside it. The same input gives the same bytes. The archive is an OCI
// image layout in a tar file with Docker's manifest.json beside it, so `ctr image import`, `kind load image-archive`, `docker load` and `crane push` all take it.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("images", flag.ContinueOnError)
	program := flags.String("program", "", "the program, a binary of this machine's architecture")
	name := flags.String("name", "", "what it is called in the image, /usr/local/bin/NAME")
	ref := flags.String("ref", "", "reference of the image")
	version := flags.String("version", "", "version, for the image's labels")
	authorities := flags.String("ca-certificates", "/etc/ssl/certs/ca-certificates.crt", "certificate authorities to put in; empty for none")
	out := flags.String("out", "", "archive to write")
	var beside []string
	flags.Func("beside", "another program, put beside the first under its own name; may be given more than once", func(file string) error {
		beside = append(beside, file)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	for flag, value := range map[string]string{"-program": *program, "-name": *name, "-ref": *ref, "-out": *out} {
		if value == "" {
			return fmt.Errorf("%s is missing", flag)
		}
	}
	base, err := baseFiles(append([]string{*program}, beside...), *authorities)
	if err != nil {
		return err
	}
	path := filepath.Join("usr/local/bin", *name)
	own := map[string]string{path: *program}
	for _, file := range beside {
		own[filepath.Join("usr/local/bin", filepath.Base(file))] = file
	}
	programs := make([]file, 0, len(own))
	for path, source := range own {
		content, err := os.ReadFile(source)
		if err != nil {
			return err
		}
		programs = append(programs, file{path: path, content: content, mode: 0o755})
	}
	layers := make([]layer, 0, 2)
	for _, files := range [][]file{base, programs} {
		made, err := newLayer(files)
		if err != nil {
			return err
		}
		layers = append(layers, made)
	}
	image := image{
		ref: *ref, version: *version, title: *name, architecture: runtime.GOARCH,
		entrypoint: "/" + path, layers: layers,
	}
	if err := image.write(*out); err != nil {
		return fmt.Errorf("failed to write %s: %w", *out, err)
	}
	fmt.Printf("%s %s %d bytes\n", *ref, image.digest(), image.size())
	return nil
}
