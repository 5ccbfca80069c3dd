package app

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"kexrelay/internal/journal"
)

const (
	// shareTick is how often it is looked at what only time changes: who is silent, what nobody takes.
	shareTick = 50 * time.Millisecond
	// takeAgain is how long after a lease could not be taken it is tried again.
	takeAgain = 250 * time.Millisecond
	// grace is how long a free partition is left to the replica whose turn it is. Then that one is passed over.
	grace = 3 * time.Second
	// anybody is how long a partition may be free before anybody takes it, whatever its share.
	anybody = grace + time.Second
	// passedFor is how long a replica that took nothing is passed over at first; each time twice as long as before.
	passedFor, passedMost = 30 * time.Second, 10 * time.Minute
	// keepFor is how long a replica keeps what it took beyond its share, because nobody else did.
	keepFor = 30 * time.Second
)

// decision is what one replica does next.
type decision struct {
	// take are the partitions to take.
	take []int
	// handOver is a partition to hand over, -1 for none.
	handOver int
	// turn says whose turn it is to take each free partition.
	turn map[int]string
}

// decide is what everybody does by the same rules, so that those who see the same agree without a word: everybody
// holds N/R partitions, N mod R of them one more; what is free is taken by those who have too little; who has too much
// hands one over at a time, while nothing else is free.
func decide(f journal.Fleet) decision {
	d := decision{handOver: -1, turn: map[int]string{}}
	has := make(map[string]int)
	var free, mine []int
	for number, p := range f.Partitions {
		holder := p.Holder
		if p.Own { // Nobody else can take it: take it back, then count.
			d.take = append(d.take, number)
			holder = f.Me
		}
		switch holder {
		case "":
			free = append(free, number)
		case f.Me:
			mine = append(mine, number)
			has[holder]++
		default:
			has[holder]++
		}
	}
	lacks := make(map[string]int, len(f.Live))
	for process, n := range shares(f.Live, has, len(f.Partitions)) {
		lacks[process] = n - has[process]
	}
	for _, number := range free {
		next := slices.MaxFunc(f.Live, func(a, b string) int {
			return cmp.Or(cmp.Compare(lacks[a], lacks[b]), cmp.Compare(b, a))
		})
		lacks[next]--
		d.turn[number] = next
		if next == f.Me || f.Partitions[number].FreeFor >= anybody {
			d.take = append(d.take, number)
		}
	}
	if len(free) == 0 && lacks[f.Me] < 0 {
		d.handOver = slices.Max(mine)
	}
	return d
}

// shares is how many of n partitions each replica is to hold. Those who hold most get what does not divide, so that few
// are moved.
func shares(live []string, has map[string]int, n int) map[string]int {
	order := slices.Clone(live)
	slices.SortFunc(order, func(a, b string) int {
		return cmp.Or(cmp.Compare(has[b], has[a]), cmp.Compare(a, b))
	})
	shares := make(map[string]int, len(live))
	for i, process := range order {
		shares[process] = n / len(live)
		if i < n%len(live) {
			shares[process]++
		}
	}
	return shares
}

// members is what sharing needs of journal.Members.
type members interface {
	Look(partitions int) (journal.Fleet, bool)
	Changed() <-chan struct{}
}

// sharing gives this process its share of the partitions. Its methods but run are called by the partitions.
type sharing struct {
	members    members
	partitions []*partition
	logger     *slog.Logger
	wake       chan struct{}

	// Of run alone.
	passed map[string]passedOver
	// blamed are the free partitions that somebody was passed over for already.
	blamed map[int]bool
	// keepUntil is until when nothing is handed over.
	keepUntil time.Time
}

// passedOver is a replica that took nothing when it was its turn.
type passedOver struct {
	until time.Time
	last  time.Duration
}

func newSharing(m members, partitions []*partition, logger *slog.Logger) *sharing {
	return &sharing{
		members: m, partitions: partitions, logger: logger, wake: make(chan struct{}, 1),
		passed: map[string]passedOver{}, blamed: map[int]bool{},
	}
}

// run decides again and again until ctx ends.
func (s *sharing) run(ctx context.Context) {
	ticker := time.NewTicker(shareTick)
	defer ticker.Stop()
	for ctx.Err() == nil {
		if fleet, ok := s.members.Look(len(s.partitions)); ok {
			s.step(time.Now(), fleet)
		}
		select {
		case <-ticker.C:
		case <-s.members.Changed():
		case <-s.wake:
		case <-ctx.Done():
		}
	}
}

// changed says that a partition has become idle.
func (s *sharing) changed() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// step carries out what is decided now.
func (s *sharing) step(now time.Time, fleet journal.Fleet) {
	s.passOver(now, fleet)
	fleet.Live = slices.DeleteFunc(slices.Clone(fleet.Live), func(process string) bool {
		return process != fleet.Me && now.Before(s.passed[process].until)
	})
	d := decide(fleet)
	alone := len(fleet.Live) == 1
	for _, number := range d.take {
		if !s.partitions[number].want(now, alone) {
			continue
		}
		if turn, free := d.turn[number]; free && turn != fleet.Me {
			s.keepUntil = now.Add(keepFor)
			s.logger.Info("partition that nobody takes is taken beyond this replica's share", slog.Int("partition", number))
		}
	}
	if d.handOver < 0 || now.Before(s.keepUntil) {
		return
	}
	if s.partitions[d.handOver].leave() {
		s.logger.Info("partition is handed over, so that all replicas have their share", slog.Int("partition", d.handOver),
			slog.Int("replicas", len(fleet.Live)))
	}
}

// passOver notes who did not take what it was its turn to take, and forgets it of those who hold something.
func (s *sharing) passOver(now time.Time, fleet journal.Fleet) {
	turn := decide(fleet).turn
	for number, p := range fleet.Partitions {
		if p.Holder != "" || p.Own {
			delete(s.passed, p.Holder)
			delete(s.blamed, number)
			continue
		}
		process := turn[number]
		if p.FreeFor < grace || s.blamed[number] || process == fleet.Me || now.Before(s.passed[process].until) {
			continue
		}
		s.blamed[number] = true
		wait := min(max(passedFor, 2*s.passed[process].last), passedMost)
		s.passed[process] = passedOver{until: now.Add(wait), last: wait}
		s.logger.Warn("replica does not take the partition that is its share; the others go on without it for a while",
			slog.Int("partition", number), slog.String("process", process), slog.Duration("for", wait))
	}
}
