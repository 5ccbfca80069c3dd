package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"kexrelay/internal/app"
	"kexrelay/internal/fault"
	"kexrelay/internal/journal"
	"kexrelay/internal/queue"
)

// replicaSilent is when the other replicas take one for dead.
const replicaSilent = 5 * time.Second

// replicaStatus is a relay that is running, or that died within the last minute.
type replicaStatus struct {
	journal.Replica
	// Partitions are those whose lease it holds.
	Partitions []int `json:"partitions"`
	// SilentSeconds is how long ago its record was written; it is written each second.
	SilentSeconds float64 `json:"silentSeconds"`
	// State is what it answered when it was asked, absent if it did not.
	State *app.ReplicaState `json:"state,omitempty"`
}

// workStatus is what the relays that answered have in hand together.
type workStatus struct {
	// Relays is how many answered.
	Relays int `json:"relays"`
	// Lanes are the Vorgänge with an update there, LanesRetrying those that wait for a retry.
	Lanes         int `json:"lanes"`
	LanesRetrying int `json:"lanesRetrying"`
	InFlight      int `json:"inFlight"`
	HeldUpdates   int `json:"heldUpdates"`
}

// replicas asks which relays run and who holds which partition: what is written down about them, and themselves, because
// they may be alive and not able to write.
func (s *status) replicas(ctx context.Context, conn *queue.Conn) error {
	leases := journal.NewLeases(conn.JetStream(), "", nil)
	registered, err := leases.Replicas(ctx)
	var holders []journal.Holder
	if err == nil {
		holders, err = leases.Holders(ctx)
	}
	s.registered = err == nil
	s.shareOut(registered, holders)
	answers, asked := conn.AskReplicas(ctx, s.alive(), replicasPatience)
	s.answered(answers)
	return errors.Join(err, asked)
}

// answered adds what the relays say themselves.
func (s *status) answered(answers [][]byte) {
	for _, answer := range answers {
		state := &app.ReplicaState{}
		if json.Unmarshal(answer, state) != nil {
			continue // Of another version, perhaps: it is there nevertheless, by its record.
		}
		if s.Work == nil {
			s.Work = &workStatus{}
		}
		s.Work.Relays++
		s.Work.Lanes += state.Lanes
		s.Work.LanesRetrying += state.LanesRetrying
		s.Work.InFlight += state.InFlight
		s.Work.HeldUpdates += state.HeldUpdates
		i := slices.IndexFunc(s.Replicas, func(r replicaStatus) bool { return r.Process == state.Process })
		if i < 0 {
			i = len(s.Replicas)
			s.Replicas = append(s.Replicas, replicaStatus{Replica: journal.Replica{
				Process: state.Process, Name: state.Replica, Host: state.Host, PID: state.PID, Version: state.Version, StartedAt: state.StartedAt,
			}, Partitions: state.Partitions})
		}
		s.Replicas[i].State = state
	}
}

// shareOut puts together who runs and who holds what.
func (s *status) shareOut(registered []journal.RegisteredReplica, holders []journal.Holder) {
	for _, r := range registered {
		shown := replicaStatus{Replica: r.Replica, Partitions: []int{}, SilentSeconds: r.SilentFor.Seconds()}
		for _, h := range holders {
			if h.Process == r.Process && !h.Released {
				shown.Partitions = append(shown.Partitions, h.Partition)
			}
		}
		s.Replicas = append(s.Replicas, shown)
	}
	for _, h := range holders {
		for i := range s.Partitions {
			if s.Partitions[i].Partition == h.Partition && !h.Released {
				s.Partitions[i].Holder = h.Process
			}
		}
	}
}

// silent is how long ago it was heard of.
func (r *replicaStatus) silent() time.Duration {
	return time.Duration(r.SilentSeconds * float64(time.Second))
}

// alive reports that it answered, or was heard of just now.
func (r *replicaStatus) alive() bool { return r.State != nil || r.silent() <= replicaSilent }

// cannot is the reason why it does not do its work, empty if it does, or waits for its turn. What is not its own, as
// an outage, is a hold.
func (r *replicaStatus) cannot() string {
	switch {
	case r.State == nil:
		return ""
	case !r.State.Ready:
		return r.State.Reason
	case r.silent() > replicaSilent: // It lives, and its record is not renewed.
		return string(fault.Storage)
	}
	return ""
}

// alive counts the relays that are running.
func (s *status) alive() int {
	n := 0
	for i := range s.Replicas {
		if s.Replicas[i].alive() {
			n++
		}
	}
	return n
}

// served reports whether a relay fetches a partition's updates, or says that it would.
func (s *status) served(p partitionStatus) bool {
	return p.Pulling || slices.ContainsFunc(s.Replicas, func(r replicaStatus) bool {
		return r.State != nil && slices.Contains(r.State.Partitions, p.Partition)
	})
}

// place tells a replica from the others: they all have the same name.
func (r *replicaStatus) place() string { return r.Host + ":" + strconv.Itoa(r.PID) }

// holder is who holds a partition, for people.
func (s *status) holder(process string) string {
	for i := range s.Replicas {
		if r := &s.Replicas[i]; r.Process == process {
			if r.silent() > replicaSilent {
				return r.place() + " (not renewed)"
			}
			return r.place()
		}
	}
	if process == "" {
		return "nobody"
	}
	return "gone (" + process + ")"
}

func (s *status) printReplicas(p *printer) error {
	if len(s.Replicas) == 0 {
		return nil
	}
	if err := p.line(""); err != nil {
		return err
	}
	t := p.table(column{title: "REPLICA"}, column{title: "NAME", from: 100}, column{title: "VERSION"}, column{title: "RUNNING", right: true},
		column{title: "HAS PARTITION"}, column{title: "STATE"})
	for i := range s.Replicas {
		r := &s.Replicas[i]
		held, state := text("none, stands by"), cell{"alive", good}
		if len(r.Partitions) > 0 {
			held = text(strings.Trim(strings.ReplaceAll(fmt.Sprint(r.Partitions), " ", ", "), "[]"))
		}
		switch {
		case r.cannot() != "":
			state = cell{r.cannot(), bad}
		case r.silent() > replicaSilent:
			state = cell{"silent for " + duration(r.silent()), bad}
		}
		if err := t.add(text(r.place()), text(r.Name), text(r.Version), text(duration(s.CheckedAt.Sub(r.StartedAt))), held, state); err != nil {
			return err
		}
	}
	return t.flush()
}
