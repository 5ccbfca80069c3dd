package topology

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// Setup creates the topology or mends what differs from it, and says what it did. Running it again changes
// nothing; two at the same time do no harm.
//
// Everything is looked at before anything is changed: if something cannot be put right (a setting that servers
// never change, another number of partitions while updates are waiting), nothing is changed and the error names
// every such thing. After each change the server's answer is compared with the wish, because servers adjust
// settings without an error. If a change fails, the report tells what was done before; running setup again goes on
// from there.
//
// The number of partitions changes only while no update waits, and no relay may send: none has a lease, or an
// operator has paused them. Updates that are published while setup works may be seen in both orders.
func Setup(ctx context.Context, js jetstream.JetStream, opts Options) (Report, error) {
	if err := opts.Validate(); err != nil {
		return Report{DryRun: opts.DryRun}, err
	}
	p, err := makePlan(ctx, js, opts)
	report := Report{DryRun: opts.DryRun, Server: p.server, Partitions: p.partitions}
	if err != nil && !opts.DryRun {
		return report, err
	}
	for _, step := range p.steps {
		thing := step.thing
		if thing.Action != Unchanged && !opts.DryRun {
			if err := patiently(ctx, step.do); err != nil {
				return report, fmt.Errorf("%s: %w", thing.Name, explainChange(err, step.stream))
			}
		}
		report.Things = append(report.Things, thing)
	}
	return report, err
}

// RefusedError is something that setup cannot put right.
type RefusedError struct {
	// Thing is what it is about, e.g. "stream KEX_UPDATES".
	Thing string
	// Problem says what is wrong with it and Advice what to do.
	Problem, Advice string
}

// Error is one sentence about the problem and one about what to do.
func (e *RefusedError) Error() string { return e.Thing + " " + e.Problem + ". " + e.Advice }

// plan is what setup will do, in this order.
type plan struct {
	js         jetstream.JetStream
	opts       Options
	server     string
	partitions int
	steps      []step
	refused    []error
	// waiting counts the updates in the stream.
	waiting uint64
	// hasUpdates says that the stream the consumers belong to is there already.
	hasUpdates bool
}

// step is one thing of the report and how to bring it about; do is nil if nothing needs to be done.
type step struct {
	thing Thing
	do    func(ctx context.Context) error
	// stream is what the thing is, unless it is a consumer.
	stream spec
}

func makePlan(ctx context.Context, js jetstream.JetStream, opts Options) (*plan, error) {
	p := &plan{js: js, opts: opts}
	var err error
	if p.server, err = requireVersion(js); err != nil {
		return p, err
	}
	level, err := accountLevel(ctx, js)
	if err != nil {
		return p, err
	}
	if err := requireLevel(level); err != nil {
		return p, err
	}
	for _, s := range specs() {
		if err := p.planStream(ctx, s); err != nil {
			return p, err
		}
	}
	if err := p.planConsumers(ctx); err != nil {
		return p, err
	}
	return p, errors.Join(p.refused...)
}

func (p *plan) refuse(thing, problem, advice string) {
	p.refused = append(p.refused, &RefusedError{Thing: thing, Problem: problem, Advice: advice})
}

func (p *plan) planStream(ctx context.Context, s spec) error {
	found, err := streamInfo(ctx, p.js, s.base.Name)
	if err != nil {
		return fmt.Errorf("asking for %s: %w", s.label(), explainAsking(err))
	}
	var config *jetstream.StreamConfig
	if found != nil {
		config = &found.Config
	}
	if s.name == StreamUpdates {
		if err := p.planPartitions(ctx, found); err != nil {
			return err
		}
	}
	wanted := s.wanted(p.opts, p.partitions, config)
	if found == nil {
		if p.opts.Replicas == 0 && p.js.Conn().ConnectedClusterName() != "" {
			wanted.Replicas = clusterReplicas
		}
		p.steps = append(p.steps, step{
			thing: Thing{Name: s.label(), Action: Created}, stream: s,
			do: func(ctx context.Context) error {
				stream, err := p.js.CreateStream(ctx, wanted)
				return agreed(streamFields(), configOf(stream), &wanted, err)
			},
		})
		return nil
	}
	changes := compare(streamFields(), &found.Config, &wanted)
	p.refuseFixed(s.label(), "stream", s.base.Name, changes)
	p.steps = append(p.steps, step{
		thing: updated(s.label(), changes), stream: s,
		do: func(ctx context.Context) error {
			stream, err := p.js.UpdateStream(ctx, wanted)
			return agreed(streamFields(), configOf(stream), &wanted, err)
		},
	})
	return nil
}

// planPartitions settles how many partitions there will be and refuses to change their number while updates wait:
// a Vorgang's waiting updates would stay in one partition while its next ones go to another, and be overtaken.
// The same goes for one that arrives while setup works, so no relay may send meanwhile.
func (p *plan) planPartitions(ctx context.Context, found *jetstream.StreamInfo) error {
	p.partitions = max(p.opts.Partitions, 1)
	if found == nil {
		return nil
	}
	p.hasUpdates = true
	p.waiting = found.State.Msgs
	now := partitionsIn(found.Config)
	if p.opts.Partitions == 0 && now != 0 {
		p.partitions = now
	}
	// Without a transform everything lies where partition 0 looks; one that is all there is sees it all.
	harmless := now == p.partitions || p.partitions == 1 && found.Config.SubjectTransform == nil
	if harmless {
		return nil
	}
	change := fmt.Sprintf("going from %s to %s would mix up their order", partitionCount(now), partitionCount(p.partitions))
	if p.waiting > 0 {
		p.refuse("stream "+StreamUpdates, fmt.Sprintf("is not empty (updates waiting: %d), and %s", p.waiting, change),
			"Stop the publishers, let the relays empty the stream, pause them, then run kexrelay setup --"+FlagPartitions+" again")
		return nil
	}
	holder, err := sender(ctx, p.js)
	if err != nil {
		return fmt.Errorf("asking who may send updates: %w", explainAsking(err))
	}
	if holder != "" {
		p.refuse("stream "+StreamUpdates, fmt.Sprintf("is being worked on by a relay (%s), and of updates that arrive now %s", holder, change),
			"Stop the publishers, run kexrelay pause, then kexrelay setup --"+FlagPartitions+" again, then kexrelay resume; the relays need no restart")
	}
	return nil
}

func partitionCount(n int) string {
	switch n {
	case 0:
		return "an unknown number of partitions"
	case 1:
		return "1 partition"
	default:
		return strconv.Itoa(n) + " partitions"
	}
}

func (p *plan) planConsumers(ctx context.Context) error {
	if err := p.planRemovals(ctx); err != nil {
		return err
	}
	for partition := range p.partitions {
		if err := p.planConsumer(ctx, partition); err != nil {
			return err
		}
	}
	return nil
}

// planRemovals takes away the consumers of former partitions, before the filters of others grow over theirs. A
// consumer that is not ours is refused: on a WorkQueue stream what it acknowledges is gone.
func (p *plan) planRemovals(ctx context.Context) error {
	if !p.hasUpdates {
		return nil
	}
	names, err := consumerNames(ctx, p.js)
	if err != nil {
		return fmt.Errorf("listing the consumers of %s: %w", StreamUpdates, explainAsking(err))
	}
	for _, name := range names {
		partition, ours := partitionOf(name)
		switch {
		case !ours:
			p.refuse("stream "+StreamUpdates, "has a consumer "+strconv.Quote(name)+" that is not kexrelay's and takes updates away from it",
				"Delete it (nats consumer rm "+StreamUpdates+" "+name+"), then run kexrelay setup again; results and dead letters can be watched freely")
		case partition >= p.partitions:
			p.steps = append(p.steps, step{
				thing: Thing{Name: "consumer " + name, Action: Removed},
				do:    func(ctx context.Context) error { return p.removeConsumer(ctx, name) },
			})
		}
	}
	return nil
}

func (p *plan) removeConsumer(ctx context.Context, name string) error {
	err := p.js.DeleteConsumer(ctx, StreamUpdates, name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return nil // Another setup was faster, or the answer to the first try got lost.
	}
	return err
}

func partitionOf(consumer string) (int, bool) {
	digits, ok := strings.CutPrefix(consumer, consumerPrefix)
	if !ok {
		return 0, false
	}
	partition, err := strconv.Atoi(digits)
	return partition, err == nil && Consumer(partition) == consumer
}

func (p *plan) planConsumer(ctx context.Context, partition int) error {
	name := Consumer(partition)
	label := "consumer " + name
	found, err := consumerInfo(ctx, p.js, name)
	if errors.Is(err, jetstream.ErrNotPullConsumer) {
		p.refuse(label, "is a push consumer and must be a pull consumer", recreateConsumer(name))
		return nil
	}
	if err != nil {
		return fmt.Errorf("asking for %s: %w", label, explainAsking(err))
	}
	if found == nil {
		wanted := wantedConsumer(partition, p.partitions, nil)
		p.steps = append(p.steps, step{thing: Thing{Name: label, Action: Created}, do: func(ctx context.Context) error {
			consumer, err := p.js.CreateConsumer(ctx, StreamUpdates, wanted)
			return agreed(consumerFields(), consumerConfigOf(consumer), &wanted, err)
		}})
		return nil
	}
	wanted := wantedConsumer(partition, p.partitions, &found.Config)
	changes := compare(consumerFields(), &found.Config, &wanted)
	p.refuseFixed(label, "consumer", name, changes)
	thing := updated(label, changes)
	// A consumer never goes back by itself: what lies before its position and did not match its former filter
	// would wait for ever.
	rewind := p.waiting > 0 && list(consumerFilters(&found.Config)) != list(consumerFilters(&wanted))
	if rewind {
		thing.Note = "begins again at the oldest waiting update"
	}
	p.steps = append(p.steps, step{thing: thing, do: func(ctx context.Context) error {
		change := p.js.UpdateConsumer
		if rewind {
			// Made anew, not reset: a cluster whose consumer is reset while a relay works with it loses updates (nats-server
			// 2.15.2, see internal/queue). The updates stay, and a relay goes on with the new one.
			if err := p.js.DeleteConsumer(ctx, StreamUpdates, name); err != nil {
				return fmt.Errorf("deleting %s, to make it anew: %w", label, err)
			}
			change = p.js.CreateConsumer
		}
		consumer, err := change(ctx, StreamUpdates, wanted)
		return agreed(consumerFields(), consumerConfigOf(consumer), &wanted, err)
	}})
	return nil
}

func (p *plan) refuseFixed(label, what, name string, changes []Change) {
	for _, c := range changes {
		if !c.fixed {
			continue
		}
		problem := fmt.Sprintf("has %s %s and must have %s, which no server changes on an existing %s", c.Field, c.Old, c.New, what)
		if what == "consumer" {
			p.refuse(label, problem, recreateConsumer(name))
		} else {
			p.refuse(label, problem, recreateStream(name, c.Field))
		}
	}
}

func recreateConsumer(name string) string {
	return "Stop the relays, delete it (nats consumer rm " + StreamUpdates + " " + name +
		"; the updates stay in the stream), then run kexrelay setup again"
}

func recreateStream(name, setting string) string {
	if setting == "storage" {
		return "Leave out --" + FlagStorage + ", or save what it holds (nats stream backup " + name + "), delete it (nats stream rm " +
			name + ") and run kexrelay setup again"
	}
	return "Save what it holds (nats stream backup " + name + "), delete it (nats stream rm " + name + ") and run kexrelay setup again"
}

func updated(label string, changes []Change) Thing {
	if len(changes) == 0 {
		return Thing{Name: label, Action: Unchanged}
	}
	return Thing{Name: label, Action: Updated, Changes: changes}
}

// agreed turns a server's answer into an error unless it is what was wished for.
func agreed[C any](fields []field[C], got, wanted *C, err error) error {
	if err != nil {
		return err
	}
	changes := compare(fields, got, wanted)
	if len(changes) == 0 {
		return nil
	}
	texts := make([]string, len(changes))
	for i, c := range changes {
		texts[i] = fmt.Sprintf("%s (asked for %s, got %s)", c.Field, c.New, c.Old)
	}
	return errors.New("the server accepted it but changed " + strings.Join(texts, ", "))
}
