package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// small is a valid model of one layer: the logit of digit d is the sum of row d modulo 8 of the picture.
func small() *model {
	m := &model{Format: modelFormat, Matrices: [][4]int64{{4096, 0, 0, 4096}}, Shifts: [][2]int64{{0, 0}}}
	l := layer{Bias: make([]int64, classes)}
	for class := range classes {
		row := make([]int64, pixels)
		for column := range side {
			row[class%side*side+column] = 1
		}
		l.Weights = append(l.Weights, row)
	}
	m.Layers = []layer{l}
	return m
}

// workspace gives a job of one share, over a model and images in directories of their own.
func workspace(t *testing.T, modelText, images string) job {
	t.Helper()
	j := job{model: t.TempDir(), data: t.TempDir(), out: t.TempDir(), count: 1}
	for file, text := range map[string]string{
		filepath.Join(j.model, "model.json"): modelText,
		filepath.Join(j.data, "digits.csv"):  images,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return j
}

func encode(t *testing.T, m *model) string {
	t.Helper()
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func line(label int, values ...int) string {
	fields := make([]string, pixels)
	for i := range fields {
		fields[i] = "0"
	}
	for i, value := range values {
		fields[i] = fmt.Sprint(value)
	}
	return strings.Join(fields, ",") + fmt.Sprintf(",%d\n", label)
}

func TestRun_committedModel_equalsExpectedLines(t *testing.T) {
	expected, err := os.ReadFile("../expected.csv")
	if err != nil {
		t.Fatal(err)
	}
	const count = 600 // three images to a share keep the test short
	for _, index := range []int{0, count / 2, count - 1} {
		j := job{model: "../model", data: "../data", out: t.TempDir(), index: index, count: count}
		var stdout bytes.Buffer
		if err := run(j, &stdout); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(j.out, "predictions.csv"))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.SplitAfter(string(expected), "\n")
		first, end := share(len(lines)-1, index, count)
		if want := strings.Join(lines[first:end], ""); string(got) != want {
			t.Errorf("index %d: got\n%swant\n%s", index, got, want)
		}
		if strings.Count(stdout.String(), "\n") != 1 {
			t.Errorf("index %d: the summary is not one line: %q", index, stdout.String())
		}
	}
}

func TestShare_anyNumberOfIndexes_coversEachImageOnce(t *testing.T) {
	for _, count := range []int{1, 7, 60, 1797, 5000} {
		next := 0
		for index := range count {
			first, end := share(1797, index, count)
			if first != next || end < first || end-first > 1797/count+1 {
				t.Fatalf("index %d of %d: %d to %d, after %d", index, count, first, end, next)
			}
			next = end
		}
		if next != 1797 {
			t.Fatalf("%d indexes end at %d", count, next)
		}
	}
}

func TestWarp_identity_keepsPicture(t *testing.T) {
	var source, moved [pixels]int64
	for i := range source {
		source[i] = int64(i % (ink + 1))
	}
	s := newSampling([4]int64{4096, 0, 0, 4096})
	warp(&source, &s, [2]int64{0, 0}, moved[:])
	for i := range source {
		if moved[i] != source[i]<<8 {
			t.Fatalf("pixel %d is %d, not %d", i, moved[i], source[i]<<8)
		}
	}
	warp(&source, &s, [2]int64{2048, 0}, moved[:]) // half a pixel to the right in the source
	if want := (source[0] + source[1]) << 7; moved[0] != want {
		t.Errorf("pixel 0 is %d, not %d", moved[0], want)
	}
	if want := source[side-1] << 7; moved[side-1] != want {
		t.Errorf("the last pixel of the first row is %d, not %d: outside must be blank", moved[side-1], want)
	}
}

func TestRun_smallModel_writesLine(t *testing.T) {
	j := workspace(t, encode(t, small()), line(0, 16, 4)+line(7, 0, 0, 0, 0, 0, 0, 0, 0, 1))
	if err := run(j, &bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(j.out, "predictions.csv"))
	if err != nil {
		t.Fatal(err)
	}
	// Digits 0 and 8 have the same logit, so do 1 and 9: the first wins, with no margin.
	if want := "0,0,0,0\n1,1,0,7\n"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestParse_environmentAndArguments_giveJob(t *testing.T) {
	env := map[string]string{"JOB_COMPLETION_INDEX": "3", "JOB_COMPLETIONS": "60"}
	get := func(name string) string { return env[name] }
	j, err := parse([]string{"--model", "/m"}, get)
	if want := (job{model: "/m", data: "/data", out: "/kerbside/out", index: 3, count: 60}); err != nil || j != want {
		t.Errorf("got %+v, %v", j, err)
	}
	for name, args := range map[string][]string{
		"JOB_COMPLETION_INDEX is \"60\"": {"--index=60"},
		"JOB_COMPLETION_INDEX is \"-1\"": {"--index=-1"},
		"JOB_COMPLETIONS is \"0\"":       {"--completions=0"},
		"JOB_COMPLETIONS is \"many\"":    {"--completions=many"},
		"not defined: -what":             {"--what"},
		"\"else\" is not an option":      {"else"},
	} {
		if _, err := parse(args, get); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v: got %v, want %s", args, err, name)
		}
	}
	if _, err := parse(nil, func(string) string { return "" }); err == nil {
		t.Error("an empty environment was accepted")
	}
}

func TestLoadModel_badModel_saysWhatIsWrong(t *testing.T) {
	for want, damage := range map[string]func(*model){
		"its format is":             func(m *model) { m.Format = "other" },
		"0 matrices":                func(m *model) { m.Matrices = nil },
		"0 shifts":                  func(m *model) { m.Shifts = nil },
		"0 layers":                  func(m *model) { m.Layers = nil },
		"a matrix has 65537":        func(m *model) { m.Matrices[0][2] = 65537 },
		"a shift is -65537":         func(m *model) { m.Shifts[0][1] = -65537 },
		"9 biases":                  func(m *model) { m.Layers[0].Bias = m.Layers[0].Bias[:9] },
		"63 weights in row 4":       func(m *model) { m.Layers[0].Weights[4] = m.Layers[0].Weights[4][:63] },
		"the weight 40000 in row 2": func(m *model) { m.Layers[0].Weights[2][1] = 40000 },
		"shifts by 33":              func(m *model) { m.Layers[0].Shift = 33 },
		"could pass 2^53 in row 1":  func(m *model) { m.Layers[0].Bias[1] = -1 << 53 },
		"the sum over all":          func(m *model) { m.Layers[0].Bias[1] = 1 << 52; m.Shifts = make([][2]int64, 2) },
		"9 outputs": func(m *model) {
			m.Layers[0].Bias, m.Layers[0].Weights = m.Layers[0].Bias[:9], m.Layers[0].Weights[:9]
		},
	} {
		m := small()
		damage(m)
		j := workspace(t, encode(t, m), line(0))
		if err := run(j, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	j := workspace(t, `{"format": `, line(0))
	if err := run(j, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "model.json") {
		t.Errorf("half a model: %v", err)
	}
}

func TestLoadImages_badImages_saysLineAndWhatIsWrong(t *testing.T) {
	for want, images := range map[string]string{
		"line 1: there are 1 values":   "",
		"line 2: there are 2 values":   line(0) + "1,2\n",
		"line 1: \"x\" is not":         "x" + line(0)[1:],
		"line 1: a pixel is 17":        line(0, 17),
		"line 2: the label is 10":      line(0) + line(10),
		"line 3: there are 1 values":   line(0) + line(1) + "\n" + line(2),
		"line 1: the label is -1":      line(-1),
		"line 1: a pixel is -1; it mu": line(0, -1),
	} {
		j := workspace(t, encode(t, small()), images)
		if err := run(j, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestRun_missingFile_namesIt(t *testing.T) {
	for want, remove := range map[string]func(*job){
		"model.json":      func(j *job) { j.model = filepath.Join(j.model, "none") },
		"digits.csv":      func(j *job) { j.data = filepath.Join(j.data, "none") },
		"predictions.csv": func(j *job) { j.out = filepath.Join(j.out, "none") },
	} {
		j := workspace(t, encode(t, small()), line(0))
		remove(&j)
		if err := run(j, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
