package main

// dense is a layer laid out for speed: all rows one after the other.
type dense struct {
	weights []int32
	bias    []int64
	shift   uint
	width   int // inputs
}

// sampling says for each output pixel of one matrix, before any shift, where in the source it lies, in 1/8192 pixel.
type sampling struct {
	x, y [pixels]int64
}

// classifier holds a model ready to run, and the memory that a run needs.
type classifier struct {
	layers    []dense
	samplings []sampling
	shifts    [][2]int64
	values    [2][]int64 // input and output of the layer at hand, swapped
}

func newClassifier(m *model) *classifier {
	c := &classifier{shifts: m.Shifts}
	widest := pixels
	for _, stored := range m.Layers {
		l := dense{bias: stored.Bias, shift: stored.Shift, width: len(stored.Weights[0])}
		for _, row := range stored.Weights {
			for _, weight := range row {
				l.weights = append(l.weights, int32(weight))
			}
		}
		widest = max(widest, len(l.bias))
		c.layers = append(c.layers, l)
	}
	for _, matrix := range m.Matrices {
		c.samplings = append(c.samplings, newSampling(matrix))
	}
	c.values = [2][]int64{make([]int64, widest), make([]int64, widest)}
	return c
}

// newSampling turns the picture about its centre: matrix in 1/4096, positions counted in half pixels from the centre.
func newSampling(matrix [4]int64) sampling {
	const centre = (side - 1) * 4096
	var s sampling
	for row := range int64(side) {
		for column := range int64(side) {
			u, v := 2*column-(side-1), 2*row-(side-1)
			s.x[row*side+column] = centre + matrix[0]*u + matrix[1]*v
			s.y[row*side+column] = centre + matrix[2]*u + matrix[3]*v
		}
	}
	return s
}

// classify gives the digit with the largest sum of logits over all augmentations, the first of equals, and how far the
// second is behind.
func (c *classifier) classify(source *[pixels]int64) (digit int, margin int64) {
	var total [classes]int64
	for i := range c.samplings {
		for _, shift := range c.shifts {
			warp(source, &c.samplings[i], shift, c.values[0])
			for class, logit := range c.forward() {
				total[class] += logit
			}
		}
	}
	for class, sum := range total {
		if sum > total[digit] {
			digit = class
		}
	}
	margin = int64(1) << 62
	for class, sum := range total {
		if class != digit {
			margin = min(margin, total[digit]-sum)
		}
	}
	return digit, margin
}

// warp writes the moved picture: bilinear between the four source pixels around each point, blank outside. Pixels of 0
// to 16 become values of 0 to 4096.
func warp(source *[pixels]int64, s *sampling, shift [2]int64, values []int64) {
	at := func(x, y int64) int64 {
		if uint64(x) >= side || uint64(y) >= side {
			return 0
		}
		return source[y*side+x]
	}
	for i := range pixels {
		// Shifting right rounds down for negative values too: a point left of the picture stays left of it.
		sx, sy := (s.x[i]+2*shift[0])>>5, (s.y[i]+2*shift[1])>>5
		x, y, fx, fy := sx>>8, sy>>8, sx&255, sy&255
		above := at(x, y)*(256-fx) + at(x+1, y)*fx
		below := at(x, y+1)*(256-fx) + at(x+1, y+1)*fx
		values[i] = (above*(256-fy) + below*fy) >> 8
	}
}

// forward runs the layers over values[0] and gives the logits, valid until the next call.
func (c *classifier) forward() []int64 {
	in, out := c.values[0], c.values[1]
	for number := range c.layers {
		l := &c.layers[number]
		hidden := number+1 < len(c.layers)
		inputs := in[:l.width]
		for row, sum := range l.bias {
			sum += dot(l.weights[row*l.width:][:len(inputs)], inputs)
			if hidden && sum < 0 {
				sum = 0
			}
			out[row] = sum >> l.shift
		}
		in, out = out, in
	}
	return in[:classes]
}

// dot takes eight products at a time: a vehicle's runtime looks at each turn of a loop whether it must stop, and that
// would cost more than the product. Integers give the same sum in any order.
func dot(weights []int32, inputs []int64) int64 {
	var sum int64
	for len(inputs) >= 8 && len(weights) >= 8 {
		w, v := weights[:8], inputs[:8]
		sum += int64(w[0])*v[0] + int64(w[1])*v[1] + int64(w[2])*v[2] + int64(w[3])*v[3] +
			int64(w[4])*v[4] + int64(w[5])*v[5] + int64(w[6])*v[6] + int64(w[7])*v[7]
		weights, inputs = weights[8:], inputs[8:]
	}
	for i, value := range inputs {
		sum += int64(weights[i]) * value
	}
	return sum
}
