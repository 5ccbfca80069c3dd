package main

import (
	"io"

	"github.com/schollz/progressbar/v3"
)

// A progress bar is worth its line from so many files or bytes on.
const (
	manyFiles = 5
	muchBytes = 8 << 20
)

// progress is a bar on stderr while files are published: only on a terminal, and only if there is something to wait
// for. The nil one shows nothing. Lines of output are written above it: clear first, then any other method shows it
// again.
type progress struct {
	bar *progressbar.ProgressBar
	// alone says that stdout goes elsewhere: its lines need no room.
	alone bool
	// counted are the bytes of the file being read that the bar has already.
	counted int64
}

func newProgress(env *environment, items []item) *progress {
	var bytes int64
	for _, one := range items {
		bytes += one.size
	}
	if !terminal(env.stderr) || len(items) < manyFiles && bytes < muchBytes {
		return nil
	}
	return &progress{bar: newBar(env.stderr, bytes, progressbar.OptionShowBytes(true)), alone: !terminal(env.stdout)}
}

// newWaiting is a bar for updates that wait for their results.
func newWaiting(env *environment, updates int) *progress {
	if !terminal(env.stderr) {
		return nil
	}
	bar := newBar(env.stderr, int64(updates), progressbar.OptionSetDescription("waiting for results"),
		progressbar.OptionShowCount(), progressbar.OptionSetPredictTime(false))
	_ = bar.RenderBlank() // Nothing depends on the bar.
	return &progress{bar: bar, alone: !terminal(env.stdout)}
}

func newBar(w io.Writer, maximum int64, more ...progressbar.Option) *progressbar.ProgressBar {
	return progressbar.NewOptions64(maximum, append([]progressbar.Option{
		progressbar.OptionSetWriter(w),
		progressbar.OptionFullWidth(),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionUseANSICodes(false),
	}, more...)...)
}

// begin shows which file is being read.
func (p *progress) begin(one item) {
	if p != nil {
		p.bar.Describe(shortenStart(printable(one.name), 24))
	}
}

// end counts the file's bytes, as far as they are not counted yet.
func (p *progress) end(one item) {
	if p != nil {
		_ = p.bar.Add64(one.size - p.counted) // Nothing depends on the bar.
		p.counted = 0
	}
}

// counting is a reader whose bytes are counted as they are read: of a file large enough to wait for.
func (p *progress) counting(r io.Reader) io.Reader {
	if p == nil {
		return r
	}
	return io.TeeReader(r, progressWriter{p})
}

type progressWriter struct{ p *progress }

// Write counts.
func (w progressWriter) Write(b []byte) (int, error) {
	w.p.counted += int64(len(b))
	_ = w.p.bar.Add64(int64(len(b))) // As above.
	return len(b), nil
}

// one counts a result.
func (p *progress) one() {
	if p != nil {
		_ = p.bar.Add(1) // As above.
	}
}

// clear makes room for a line on stderr.
func (p *progress) clear() {
	if p != nil {
		_ = p.bar.Clear() // As above.
	}
}

// clearForOutput makes room for a line on stdout.
func (p *progress) clearForOutput() {
	if p != nil && !p.alone {
		p.clear()
	}
}

// done takes the bar away.
func (p *progress) done() {
	if p != nil {
		_ = p.bar.Exit() // As above.
		_ = p.bar.Clear()
	}
}
