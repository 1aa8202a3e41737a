// Writes one of each frame with moby/spdystream's framer, as hex; see README.md.
package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"

	"github.com/moby/spdystream/spdy"
)

func main() {
	var out bytes.Buffer
	framer, err := spdy.NewFramer(&out, &out)
	if err != nil {
		panic(err)
	}
	stdin := http.Header{"Streamtype": {"stdin"}}
	two := http.Header{"Streamtype": {"error"}, "X": {"1", "2"}}
	fin := spdy.ControlFrameHeader{Flags: spdy.ControlFlagFin}
	frames := []spdy.Frame{
		&spdy.SynStreamFrame{StreamId: 1, Headers: two},
		&spdy.SynStreamFrame{StreamId: 3, Headers: stdin, CFHeader: fin},
		&spdy.SynReplyFrame{StreamId: 1, Headers: http.Header{}},
		&spdy.DataFrame{StreamId: 1, Data: []byte("hello")},
		&spdy.PingFrame{Id: 7},
		&spdy.DataFrame{StreamId: 1, Flags: spdy.DataFlagFin},
		&spdy.RstStreamFrame{StreamId: 3, Status: spdy.Cancel},
		&spdy.HeadersFrame{StreamId: 1, Headers: two},
		&spdy.GoAwayFrame{LastGoodStreamId: 3, Status: spdy.GoAwayOK},
	}
	for _, frame := range frames {
		if err := framer.WriteFrame(frame); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	fmt.Printf("%x\n", out.Bytes())
}
