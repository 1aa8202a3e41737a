package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
)

const (
	side    = 8
	pixels  = side * side
	classes = 10
	ink     = 16 // the darkest pixel in the data

	modelFormat = "kerbside-digits/1"
	maxShift    = 32
	// exact bounds every sum that a model may reach. int64 would take more; the reference script computes in float64,
	// and both accept the same models.
	exact = float64(1 << 53)
)

// picture is one image, row by row, with the digit that it shows.
type picture struct {
	pixels [pixels]int64
	label  int
}

// model is the artefact as stored. README.md describes it.
type model struct {
	Format   string     `json:"format"`
	Matrices [][4]int64 `json:"matrices"`
	Shifts   [][2]int64 `json:"shifts"`
	Layers   []layer    `json:"layers"`
}

// layer is fully connected: one row of weights and one bias to an output.
type layer struct {
	Weights [][]int64 `json:"weights"`
	Bias    []int64   `json:"bias"`
	Shift   uint      `json:"shift"`
}

func (m *model) augmentations() int { return len(m.Matrices) * len(m.Shifts) }

// loadModel reads and checks the model.
func loadModel(file string) (*model, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("failed to read model; mount it or name its directory by --model: %w", err)
	}
	var m model
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("failed to read model from %s: %w", file, err)
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("failed to accept model from %s: %w", file, err)
	}
	return &m, nil
}

// check refuses a model whose parts do not fit together or whose sums could become too large.
func (m *model) check() error {
	if m.Format != modelFormat {
		return fmt.Errorf("its format is %q, this program reads %q", m.Format, modelFormat)
	}
	if m.augmentations() == 0 || len(m.Layers) == 0 {
		return fmt.Errorf("it has %d matrices, %d shifts and %d layers; each must be at least 1",
			len(m.Matrices), len(m.Shifts), len(m.Layers))
	}
	for _, matrix := range m.Matrices {
		for _, v := range matrix {
			if v < -1<<16 || v > 1<<16 {
				return fmt.Errorf("a matrix has %d; the values are 1/4096 and from -65536 to 65536", v)
			}
		}
	}
	for _, shift := range m.Shifts {
		for _, v := range shift {
			if v < -1<<16 || v > 1<<16 {
				return fmt.Errorf("a shift is %d; the values are 1/4096 pixel and from -65536 to 65536", v)
			}
		}
	}
	bounds := make([]float64, pixels)
	for i := range bounds {
		bounds[i] = ink << 8
	}
	for number := range m.Layers {
		var err error
		if bounds, err = m.Layers[number].bounds(bounds); err != nil {
			return fmt.Errorf("layer %d %w", number, err)
		}
	}
	if len(bounds) != classes {
		return fmt.Errorf("the last layer has %d outputs; there are %d digits", len(bounds), classes)
	}
	for _, bound := range bounds {
		if bound*float64(m.augmentations()) >= exact {
			return fmt.Errorf("the sum over all augmentations could pass 2^53")
		}
	}
	return nil
}

// bounds gives the largest magnitude of each output for inputs of the given ones.
func (l *layer) bounds(inputs []float64) ([]float64, error) {
	if len(l.Weights) != len(l.Bias) || len(l.Weights) == 0 {
		return nil, fmt.Errorf("has %d rows of weights and %d biases; each output needs one of both", len(l.Weights), len(l.Bias))
	}
	if l.Shift > maxShift {
		return nil, fmt.Errorf("shifts by %d; at most %d makes sense", l.Shift, maxShift)
	}
	outputs := make([]float64, len(l.Weights))
	for row, weights := range l.Weights {
		if len(weights) != len(inputs) {
			return nil, fmt.Errorf("has %d weights in row %d, for %d inputs", len(weights), row, len(inputs))
		}
		sum := math.Abs(float64(l.Bias[row]))
		for i, weight := range weights {
			if weight < math.MinInt16 || weight > math.MaxInt16 {
				return nil, fmt.Errorf("has the weight %d in row %d; weights have 16 bits", weight, row)
			}
			sum += math.Abs(float64(weight)) * inputs[i]
		}
		if sum >= exact {
			return nil, fmt.Errorf("could pass 2^53 in row %d", row)
		}
		outputs[row] = math.Floor(sum / float64(int64(1)<<l.Shift))
	}
	return outputs, nil
}

// loadImages reads all images: one to a line, 64 pixels and the digit.
func loadImages(file string) ([]picture, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("failed to read images; mount them or name their directory by --data: %w", err)
	}
	var images []picture
	for number, line := range strings.Split(string(bytes.TrimRight(text, "\n")), "\n") {
		image, err := parsePicture(strings.TrimSuffix(line, "\r"))
		if err != nil {
			return nil, fmt.Errorf("failed to read images from %s, line %d: %w", file, number+1, err)
		}
		images = append(images, image)
	}
	return images, nil
}

func parsePicture(line string) (picture, error) {
	var p picture
	fields := strings.Split(line, ",")
	if len(fields) != pixels+1 {
		return p, fmt.Errorf("there are %d values; an image has %d pixels and a label", len(fields), pixels)
	}
	for i, field := range fields {
		value, err := strconv.Atoi(field)
		switch {
		case err != nil:
			return p, fmt.Errorf("%q is not a number", field)
		case i == pixels && (value < 0 || value >= classes):
			return p, fmt.Errorf("the label is %d; it must be a digit", value)
		case i == pixels:
			p.label = value
		case value < 0 || value > ink:
			return p, fmt.Errorf("a pixel is %d; it must be from 0 to %d", value, ink)
		default:
			p.pixels[i] = int64(value)
		}
	}
	return p, nil
}
