package main

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

// The user that everything runs as: nobody that a host knows.
const (
	passwd = "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n"
	group  = "root:x:0:\nnonroot:x:65532:\n"
	// glibc asks here in which order names are looked up; without it, it does not read /etc/hosts first.
	nsswitch = "passwd: files\ngroup: files\nhosts: files dns\n"
)

// file is one file of a layer. Its time and owner are always the same.
type file struct {
	path    string
	content []byte
	mode    int64
	// A directory, made even if nothing is in it.
	directory bool
}

// baseFiles is all that programs need besides themselves.
func baseFiles(programs []string, authorities string) ([]file, error) {
	files := []file{
		{path: "etc/passwd", content: []byte(passwd), mode: 0o644},
		{path: "etc/group", content: []byte(group), mode: 0o644},
		{path: "etc/nsswitch.conf", content: []byte(nsswitch), mode: 0o644},
		{path: "tmp", mode: 0o1777, directory: true},
	}
	if authorities != "" {
		content, err := os.ReadFile(authorities)
		if err != nil {
			return nil, fmt.Errorf("failed to read certificate authorities (give -ca-certificates FILE, or an empty one for none): %w", err)
		}
		files = append(files, file{path: "etc/ssl/certs/ca-certificates.crt", content: content, mode: 0o644})
	}
	libraries, err := librariesOf(programs)
	if err != nil {
		return nil, err
	}
	for path, source := range libraries {
		content, err := os.ReadFile(source)
		if err != nil {
			return nil, err
		}
		files = append(files, file{path: strings.TrimPrefix(path, "/"), content: content, mode: 0o755})
	}
	return files, nil
}

// librariesOf finds the loader and every shared library of some programs, the libraries' own among them: path in the image to file here.
// It asks the files, and does not run the program or its loader as ldd does. A static program has none.
func librariesOf(programs []string) (map[string]string, error) {
	found := map[string]string{}
	waiting := slices.Clone(programs)
	for len(waiting) > 0 {
		path := waiting[0]
		waiting = waiting[1:]
		binary, err := elf.Open(path)
		if err != nil {
			return nil, fmt.Errorf("failed to read %s as a program: %w", path, err)
		}
		needed, err := binary.ImportedLibraries()
		if err != nil {
			return nil, fmt.Errorf("failed to read what %s needs: %w", path, err)
		}
		loader, err := interpreter(binary)
		if err != nil {
			return nil, fmt.Errorf("failed to read the loader of %s: %w", path, err)
		}
		machine := binary.Machine
		binary.Close()
		if loader != "" {
			// The path is written into the program; it is the same in the image.
			found[loader] = loader
		}
		for _, name := range needed {
			library, err := locate(name, machine)
			if err != nil {
				return nil, fmt.Errorf("%s needs %s: %w", path, name, err)
			}
			if _, known := found[library]; !known && filepath.Base(loader) != name && !isLoader(found, name) {
				found[library] = library
				waiting = append(waiting, library)
			}
		}
	}
	return found, nil
}

func isLoader(found map[string]string, name string) bool {
	for path := range found {
		if filepath.Base(path) == name {
			return true
		}
	}
	return false
}

func interpreter(binary *elf.File) (string, error) {
	for _, segment := range binary.Progs {
		if segment.Type != elf.PT_INTERP {
			continue
		}
		text := make([]byte, segment.Filesz)
		if _, err := segment.ReadAt(text, 0); err != nil {
			return "", err
		}
		return strings.TrimRight(string(text), "\x00"), nil
	}
	return "", nil
}

// The folders that glibc's loader searches without a configuration, which is what it has in the image.
func searchPath(machine elf.Machine) []string {
	triple := map[elf.Machine]string{elf.EM_X86_64: "x86_64-linux-gnu", elf.EM_AARCH64: "aarch64-linux-gnu"}[machine]
	folders := []string{"/lib64", "/usr/lib64", "/lib", "/usr/lib"}
	if triple != "" {
		folders = append([]string{"/lib/" + triple, "/usr/lib/" + triple}, folders...)
	}
	return folders
}

func locate(name string, machine elf.Machine) (string, error) {
	folders := searchPath(machine)
	for _, folder := range folders {
		path := filepath.Join(folder, name)
		if binary, err := elf.Open(path); err == nil {
			same := binary.Machine == machine
			binary.Close()
			if same {
				return path, nil
			}
		}
	}
	sort.Strings(folders)
	return "", fmt.Errorf("it is in none of %s", strings.Join(folders, ", "))
}
