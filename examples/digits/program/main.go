// Command digits classifies one index's share of the handwritten digits.
//
// It is built for WebAssembly (GOOS=wasip1) and carries neither weights nor images: the model and the data are
// directories that the vehicle mounts. It computes in integers only, so that every vehicle gives the same result to
// the last digit, whatever its processor.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
)

// Exit codes: a wrong call cannot be mended by a retry on another vehicle, neither can wrong input; they differ so that
// somebody who reads only the Pod's status sees which it was.
const (
	exitInput = 1
	exitUsage = 2
)

// job says which share of the images to classify and where everything is.
type job struct {
	model, data, out string
	index, count     int
}

func main() {
	job, err := parse(os.Args[1:], os.Getenv)
	if err != nil {
		fmt.Fprintf(os.Stderr, "digits: %v\n", err)
		os.Exit(exitUsage)
	}
	if err := run(job, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "digits: %v\n", err)
		os.Exit(exitInput)
	}
}

// parse takes the job from the arguments, and what they leave out from the environment.
func parse(args []string, getenv func(string) string) (job, error) {
	var j job
	var index, count string
	flags := flag.NewFlagSet("digits", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&j.model, "model", "/model", "directory with model.json")
	flags.StringVar(&j.data, "data", "/data", "directory with digits.csv")
	flags.StringVar(&j.out, "out", "/kerbside/out", "directory for predictions.csv; must exist")
	flags.StringVar(&index, "index", getenv("JOB_COMPLETION_INDEX"), "share to classify, from 0")
	flags.StringVar(&count, "completions", getenv("JOB_COMPLETIONS"), "number of shares")
	if err := flags.Parse(args); err != nil {
		return j, fmt.Errorf("failed to read arguments: %w", err)
	}
	if flags.NArg() > 0 {
		return j, fmt.Errorf("failed to read arguments: %q is not an option", flags.Arg(0))
	}
	var err error
	if j.count, err = strconv.Atoi(count); err != nil || j.count < 1 {
		return j, fmt.Errorf("failed to read number of shares: JOB_COMPLETIONS is %q; set it to the job's completions", count)
	}
	if j.index, err = strconv.Atoi(index); err != nil || j.index < 0 || j.index >= j.count {
		return j, fmt.Errorf("failed to read index: JOB_COMPLETION_INDEX is %q; it must be from 0 to %d", index, j.count-1)
	}
	return j, nil
}

// share gives the images of an index, from first up to but without end. The shares of all indexes differ by one image at
// most, and together are all images.
func share(images, index, count int) (first, end int) {
	return index * images / count, (index + 1) * images / count
}

// run classifies the share, writes predictions.csv and one summary line.
func run(j job, stdout io.Writer) error {
	model, err := loadModel(path.Join(j.model, "model.json"))
	if err != nil {
		return err
	}
	images, err := loadImages(path.Join(j.data, "digits.csv"))
	if err != nil {
		return err
	}
	first, end := share(len(images), j.index, j.count)
	classifier := newClassifier(model)
	right := 0
	var lines []byte
	for i := first; i < end; i++ {
		predicted, margin := classifier.classify(&images[i].pixels)
		if predicted == images[i].label {
			right++
		}
		lines = fmt.Appendf(lines, "%d,%d,%d,%d\n", i, predicted, margin, images[i].label)
	}
	target := path.Join(j.out, "predictions.csv")
	if err := os.WriteFile(target, lines, 0o644); err != nil {
		return fmt.Errorf("failed to write predictions; --out must name a directory that can be written: %w", err)
	}
	_, err = fmt.Fprintf(stdout, "index %d of %d: images %d to %d, %d of %d right, %d augmentations each\n",
		j.index, j.count, first, end-1, right, end-first, model.augmentations())
	if err != nil {
		return fmt.Errorf("failed to write summary: %w", err)
	}
	return nil
}
