package app

import (
	"context"
	"sync"
)

// maintainIndex keeps the index of the results, by which a trace is found among very many of them, as long as this
// process holds partition 0: one does it for all. The returned function ends it.
func (p *relayProcess) maintainIndex(ctx context.Context, part *partition) (stop func()) {
	if part.number != 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() { p.index.Maintain(ctx, p.logger) })
	return func() {
		cancel()
		work.Wait()
	}
}
