package main

import (
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
)

// A progress bar is worth its line from so many files or bytes on.
const (
	manyFiles = 5
	muchBytes = 8 << 20
)

// progress is a bar on stderr while files are published: only on a terminal, and only if there is something to wait
// for. The nil one shows nothing.
type progress struct{ bar *progressbar.ProgressBar }

func newProgress(env *environment, items []item) *progress {
	var bytes int64
	for _, one := range items {
		bytes += one.size
	}
	if !terminal(env.stderr) || len(items) < manyFiles && bytes < muchBytes {
		return nil
	}
	return &progress{bar: newBar(env.stderr, bytes, progressbar.OptionShowBytes(true))}
}

// newWaiting is a bar for updates that wait for their results. It comes after a while: most results are there at once.
func newWaiting(env *environment, updates int) *progress {
	if !terminal(env.stderr) {
		return nil
	}
	return &progress{bar: newBar(env.stderr, int64(updates), progressbar.OptionSetDescription("waiting for results"),
		progressbar.OptionShowCount(), progressbar.OptionSetPredictTime(false))}
}

func newBar(w io.Writer, maximum int64, more ...progressbar.Option) *progressbar.ProgressBar {
	return progressbar.NewOptions64(maximum, append([]progressbar.Option{
		progressbar.OptionSetWriter(w),
		progressbar.OptionFullWidth(),
		progressbar.OptionThrottle(100 * time.Millisecond),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionUseANSICodes(false),
	}, more...)...)
}

// begin shows which file is being read.
func (p *progress) begin(one item) {
	if p != nil {
		p.bar.Describe(shorten(printable(one.name), 24))
	}
}

// end counts the file's bytes.
func (p *progress) end(one item) {
	if p != nil {
		_ = p.bar.Add64(one.size) // Nothing depends on the bar.
	}
}

// one counts a result.
func (p *progress) one() {
	if p != nil {
		_ = p.bar.Add(1) // As above.
	}
}

// clear makes room for a line of output; the bar comes again with the next step.
func (p *progress) clear() {
	if p != nil {
		_ = p.bar.Clear() // As above.
	}
}

// done takes the bar away.
func (p *progress) done() {
	if p != nil {
		_ = p.bar.Exit() // As above.
		_ = p.bar.Clear()
	}
}
