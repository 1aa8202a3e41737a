package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"maps"
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
	archive, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return filesOf(t, archive)
}

func filesOf(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	reader := tar.NewReader(bytes.NewReader(archive))
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

// inLayers are the files of an image, whichever layer they are in.
func inLayers(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for _, blob := range filesOf(t, archive) {
		// What is not compressed is no layer.
		layer, err := gzip.NewReader(bytes.NewReader(blob))
		if err != nil {
			continue
		}
		plain, err := io.ReadAll(layer)
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(all, filesOf(t, plain))
	}
	return all
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
	libraries, err := librariesOf([]string{"/bin/sh"})
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

func TestProgramsBesideTheFirstAreThereUnderTheirNames(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	other := filepath.Join(out, "guard")
	if err := os.WriteFile(other, []byte("none"), 0o755); err != nil {
		t.Fatal(err)
	}
	args := []string{"-program", self, "-name", "agent", "-ref", "a:1", "-version", "1", "-ca-certificates", "", "-out", filepath.Join(out, "a.tar"), "-beside"}
	if err := run(append(args, other)); err == nil || !strings.Contains(err.Error(), other) {
		t.Errorf("what is no program was put in: %v", err)
	}
	content, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, content, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := run(append(args, other)); err != nil {
		t.Fatal(err)
	}
	archive, err := os.ReadFile(filepath.Join(out, "a.tar"))
	if err != nil {
		t.Fatal(err)
	}
	files := inLayers(t, archive)
	for _, name := range []string{"usr/local/bin/agent", "usr/local/bin/guard"} {
		if !bytes.Equal(files[name], content) {
			t.Errorf("%s is missing or another", name)
		}
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
