package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func made(t *testing.T, ref string) map[string][]byte {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "image.tar")
	err = run([]string{"-program", self, "-name", "self", "-ref", ref, "-version", "1", "-ca-certificates", "", "-out", out})
	if err != nil {
		t.Fatal(err)
	}
	archive, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	files := map[string][]byte{}
	reader := tar.NewReader(archive)
	for {
		header, err := reader.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		files[header.Name], err = io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestSameInputGivesTheSameBytes(t *testing.T) {
	first, second := made(t, "localhost/a:1"), made(t, "localhost/a:1")
	for name, content := range first {
		if !bytes.Equal(content, second[name]) {
			t.Errorf("%s differs", name)
		}
	}
}

func TestEveryBlobIsNamedByItsDigestAndEveryReferenceIsThere(t *testing.T) {
	files := made(t, "localhost/a:1")
	for name, content := range files {
		if hash, ok := strings.CutPrefix(name, "blobs/sha256/"); ok && digest(content) != "sha256:"+hash {
			t.Errorf("%s holds %s", name, digest(content))
		}
	}
	var index struct{ Manifests []descriptor }
	if err := json.Unmarshal(files["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	if got := index.Manifests[0].Annotations["io.containerd.image.name"]; got != "localhost/a:1" {
		t.Errorf("containerd would call it %q", got)
	}
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	if err := json.Unmarshal(files["blobs/sha256/"+index.Manifests[0].Digest[7:]], &manifest); err != nil {
		t.Fatal(err)
	}
	for _, d := range append(manifest.Layers, manifest.Config) {
		if content, ok := files["blobs/sha256/"+d.Digest[7:]]; !ok || len(content) != d.Size {
			t.Errorf("%s is missing or has another size", d.Digest)
		}
	}
	var config struct{ Config struct{ User string } }
	if err := json.Unmarshal(files["blobs/sha256/"+manifest.Config.Digest[7:]], &config); err != nil {
		t.Fatal(err)
	}
	if config.Config.User != user {
		t.Errorf("it runs as %q", config.Config.User)
	}
}

func TestLibrariesOfADynamicProgramAreFoundWithItsLoader(t *testing.T) {
	libraries, err := librariesOf("/bin/sh")
	if err != nil {
		t.Skip("no /bin/sh to look at:", err)
	}
	var names []string
	for path := range libraries {
		names = append(names, filepath.Base(path))
	}
	all := strings.Join(names, " ")
	if len(names) > 0 && (!strings.Contains(all, "libc.so") || !strings.Contains(all, "ld-linux")) {
		t.Errorf("found %s", all)
	}
}

func TestProgramThatIsNoneIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(path, []byte("text"), 0o755); err != nil {
		t.Fatal(err)
	}
	err := run([]string{"-program", path, "-name", "a", "-ref", "a:1", "-ca-certificates", "", "-out", filepath.Join(t.TempDir(), "a.tar")})
	if err == nil || !strings.Contains(err.Error(), "as a program") {
		t.Errorf("got %v", err)
	}
}
