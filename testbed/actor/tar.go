package main

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// tar: `tar cf - PATH` and `tar -xmf - -C DIRECTORY`, as kubectl cp calls it; anything else is an error.
func tarOf(args []string) error {
	words := strings.Join(args, " ")
	switch {
	case len(args) == 3 && strings.TrimPrefix(args[0], "-") == "cf" && args[1] == "-":
		return pack(os.Stdout, args[2])
	case len(args) >= 2 && strings.HasPrefix(args[0], "-x") && args[1] == "-":
		to := "."
		if len(args) == 4 && args[2] == "-C" {
			to = args[3]
		}
		return unpack(os.Stdin, to)
	}
	return fmt.Errorf("this one does not know %q", words)
}

func pack(to io.Writer, path string) error {
	writer := tar.NewWriter(to)
	err := filepath.WalkDir(path, func(at string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		header, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return err
		}
		header.Name = strings.TrimPrefix(at, "/")
		if err := writer.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
			return err
		}
		file, err := os.Open(at)
		if err != nil {
			return err
		}
		defer file.Close()
		_, err = io.Copy(writer, file)
		return err
	})
	if err != nil {
		return err
	}
	return writer.Close()
}

func unpack(from io.Reader, to string) error {
	reader := tar.NewReader(from)
	for {
		header, err := reader.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		path := filepath.Join(to, filepath.Clean("/"+header.Name))
		if header.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o755)
		} else if header.Typeflag == tar.TypeReg {
			err = unpackFile(reader, path)
		}
		if err != nil {
			return err
		}
	}
}

func unpackFile(from io.Reader, path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := io.Copy(file, from); err != nil {
		file.Close()
		return err
	}
	return file.Close()
}
