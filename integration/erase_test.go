package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"kexrelay/internal/simulator"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

const (
	erasedVorgang, otherVorgang = "200", "2001"
	eraseCanary                 = "canary-content-Qx7Vd2"
)

// erasure is what the command prints.
type erasure struct {
	Updates, DeadLetters, Objects int
	Left                          []struct {
		UpdateSeq uint64
		Reason    string
	}
}

func eraseArgs() []string {
	return []string{"deadletters", "erase", "--vorgang", erasedVorgang, "--because", "Art. 17", "--yes", "--json"}
}

// erase erases the Vorgang and gives what was printed, the exit code, and when it said so.
func (s *system) erase() (e erasure, code int, at time.Time) {
	s.t.Helper()
	out, errs, code := runProgram(s.t, s.natsEnv(), nil, programs.kexrelay, eraseArgs()...)
	at = time.Now()
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		s.t.Fatalf("erase: exit code %d\n%s%s", code, out, errs)
	}
	if (code == 0) != (len(e.Left) == 0) || code > 1 {
		s.t.Errorf("erase: exit code %d with %d left\n%s", code, len(e.Left), errs)
	}
	return e, code, at
}

// publishErased publishes n updates of the Vorgang that is erased, with the canary, and as many of another.
func (s *system) publishErased(n int) {
	s.t.Helper()
	for i := range n {
		header := map[string]string{"Nats-Msg-Id": "erased-" + strconv.Itoa(i), "X-Own": eraseCanary}
		s.publish(update.SubjectPrefix+erasedVorgang+".kommentare", fmt.Sprintf(`["%s %d"]`, eraseCanary, i), header)
		s.publish(update.SubjectPrefix+otherVorgang+".kommentare", fmt.Sprintf(`["other %d"]`, i), nil)
	}
}

// publishLarge publishes a document of the Vorgang whose content is an object.
func (s *system) publishLarge() {
	s.t.Helper()
	file := filepath.Join(s.dir, "large.pdf")
	if err := os.WriteFile(file, bytes.Repeat([]byte(eraseCanary+"\n"), (9<<20)/len(eraseCanary)), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.command("publish", "document", "--vorgang", erasedVorgang, file)
}

// sentAfter counts the requests for the erased Vorgang that came after a moment.
func (s *system) sentAfter(at time.Time) (n int) {
	for _, r := range s.api.Requests() {
		if r.Vorgangsnummer == erasedVorgang && r.ReceivedAt.After(at) {
			n++
		}
	}
	return n
}

// wantNowhere fails the test if a file of NATS has the canary.
func (s *system) wantNowhere() {
	s.t.Helper()
	err := filepath.WalkDir(filepath.Join(s.dir, "store"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(eraseCanary)) {
			s.t.Errorf("content is left in %s", path)
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// wantOneResultEach checks that the erased Vorgang's updates have one settlement each, and the other's are delivered.
func (s *system) wantOneResultEach(n int) {
	s.t.Helper()
	ended := map[string][]update.Outcome{}
	delivered := 0
	for _, e := range s.results() {
		switch {
		case e.Data.DeadLetterSeq != 0 && e.Data.Outcome == update.Erased: // Of a dead letter.
		case e.Data.Vorgangsnummer == otherVorgang && e.Data.Outcome == update.Delivered:
			delivered++
		case e.Data.Vorgangsnummer == otherVorgang:
			s.t.Errorf("another Vorgang's update is %s", e.Data.Outcome)
		default:
			ended[e.Data.UpdateID] = append(ended[e.Data.UpdateID], e.Data.Outcome)
		}
	}
	for id, outcomes := range ended {
		if len(outcomes) != 1 {
			s.t.Errorf("update %s has the results %v", id, outcomes)
		}
	}
	if delivered != n || len(s.api.Bookings(otherVorgang)) != n {
		s.t.Errorf("of %d updates of another Vorgang %d are delivered and %d booked", n, delivered, len(s.api.Bookings(otherVorgang)))
	}
}

// Whatever the relay does meanwhile, nothing of the Vorgang is sent once its erasure is done, and nothing of its content is
// left in NATS; another Vorgang does not notice.
func TestNothingIsSentAfterAnErasure(t *testing.T) {
	t.Parallel()
	const n = 30
	settings := []string{"KEXRELAY_RETRY_INITIAL=300ms", "KEXRELAY_RETRY_MAX_INTERVAL=1s"}
	for name, c := range map[string]struct {
		before, after func(*system)
		sends         bool
	}{
		"the relay runs": {
			before: func(s *system) {
				s.serve(settings...)
				s.publishErased(n)
				eventually(s.t, 20*time.Second, "the other Vorgang is through", func() bool { return len(s.api.Bookings(otherVorgang)) == n })
			},
			after: func(*system) {},
			sends: true,
		},
		"the relay is paused": {
			before: func(s *system) {
				s.command("pause", "--reason", "a test")
				s.serve(settings...)
				s.publishErased(n)
				s.publish(update.SubjectPrefix+erasedVorgang+".x.y", eraseCanary, nil) // The transform does not match it.
				s.waitFor(s.health, "kexrelay_held_updates{}", 2*n+1)
			},
			after: func(s *system) { s.command("resume") },
		},
		"the relay is stopped": {
			before: func(s *system) {
				s.publishErased(n)
				s.publish(update.SubjectPrefix+erasedVorgang+".x.y", eraseCanary, nil)
			},
			after: func(s *system) { s.serve(settings...) },
		},
		"the relay was killed": {
			before: func(s *system) {
				s.command("pause", "--reason", "a test")
				s.serve(settings...)
				s.publishErased(n)
				s.waitFor(s.health, "kexrelay_held_updates{}", 2*n)
				s.relay.kill()
			},
			after: func(s *system) {
				s.serve(settings...)
				s.command("resume")
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t, simulator.Script{Vorgaenge: []simulator.VorgangRule{
				{Match: []string{erasedVorgang}, Always: &simulator.Answer{Status: 503}},
			}})
			c.before(s)
			s.publishLarge()
			waited := s.count(topology.StreamUpdates)
			e, code, done := s.erase()
			if code != 0 || e.Updates < n+1 || e.Objects != 1 {
				t.Errorf("erased: %+v, exit code %d; %d updates waited", e, code, waited)
			}
			s.wantNowhere()
			c.after(s)
			s.drained(30 * time.Second)
			// A younger one of the Vorgang shows that its lane goes on.
			s.publish(update.SubjectPrefix+erasedVorgang+".kommentare", `["younger"]`, nil)
			var sent []simulator.Request
			eventually(t, 20*time.Second, "a younger update is answered", func() bool {
				sent = slices.DeleteFunc(s.api.Requests(), func(r simulator.Request) bool {
					return r.Vorgangsnummer != erasedVorgang || !r.ReceivedAt.After(done)
				})
				return slices.ContainsFunc(sent, func(r simulator.Request) bool { return !r.AnsweredAt.IsZero() })
			})
			for i, r := range sent {
				// One at a time is sent: only the last may still be on its way, and its body not read yet.
				if last := i == len(sent)-1; r.Size != int64(len(`["younger"]`)) && (!last || !r.AnsweredAt.IsZero()) {
					t.Errorf("sent after the erasure: %+v", r)
				}
			}
			if before := s.sentAfter(time.Time{}) > s.sentAfter(done); before != c.sends {
				t.Errorf("something of the Vorgang was sent before: %v, want %v", before, c.sends)
			}
			s.wantNowhere()
			s.wantOneResultEach(n)
		})
	}
}

// A relay is killed in the middle of an erasure, which goes on without it. What it says is left may be sent, by the
// promise about requests with an unknown end; nothing else is.
func TestAnErasureOutlivesItsRelay(t *testing.T) {
	t.Parallel()
	const n = 150
	s := newSystem(t, simulator.Script{})
	s.command("pause", "--reason", "a test")
	s.serve()
	s.publishErased(n)
	s.waitFor(s.health, "kexrelay_held_updates{}", 2*n)
	erasing := launch(t, "erase", s.natsEnv(), programs.kexrelay, eraseArgs()...)
	eventually(t, 20*time.Second, "some are erased", func() bool { return s.count(topology.StreamAudit) > n/5 })
	s.relay.kill()
	code := erasing.wait(t, time.Minute)
	t.Logf("exit code %d: %s", code, erasing.output.String())
	e, _, _ := s.erase()
	var left []uint64
	for _, u := range e.Left {
		left = append(left, u.UpdateSeq)
	}
	if len(left) > 1 {
		t.Errorf("left: %+v", e.Left)
	}
	if len(left) == 0 {
		s.wantNowhere()
	}
	s.serve()
	s.command("resume")
	s.drained(time.Minute)
	s.wantOneResultEach(n)
	erased := 0
	for _, r := range s.results() {
		switch {
		case r.Data.Vorgangsnummer != erasedVorgang:
		case r.Data.Outcome == update.Erased:
			erased++
		case !slices.Contains(left, r.Data.UpdateSeq):
			t.Errorf("update %d is %s", r.Data.UpdateSeq, r.Data.Outcome)
		}
	}
	if got := len(s.api.Bookings(erasedVorgang)); got > len(left) || erased+len(left) < n {
		t.Errorf("%d booked, %d erased, %d left", got, erased, len(left))
	}
}

// What may be booked is left and said so, with code 1; the rest goes, and once a relay has decided it is gone too.
func TestWhatMayBeBookedIsLeftByAnErasure(t *testing.T) {
	t.Parallel()
	const n = 5
	booked := true
	s := newSystem(t, simulator.Script{Vorgaenge: []simulator.VorgangRule{
		{Match: []string{erasedVorgang}, Sequence: []simulator.Step{{Answer: simulator.Answer{Status: 504, Book: &booked}}}},
	}})
	s.serve("KEXRELAY_RETRY_INITIAL=5s", "KEXRELAY_RETRY_MAX_INTERVAL=5s")
	s.publish(update.SubjectPrefix+erasedVorgang+".kommentare", `["first"]`, nil)
	s.waitFor(s.health, `kexrelay_unknown_outcomes_total{kind="kommentare"}`, 1)
	s.command("pause", "--reason", "a test")
	s.publishErased(n)
	e, code, _ := s.erase()
	if code != 1 || e.Updates != n || len(e.Left) != 1 || e.Left[0].UpdateSeq != 1 {
		t.Fatalf("erased: %+v, exit code %d", e, code)
	}
	s.wantNowhere()
	s.command("resume")
	s.drained(time.Minute)
	if e, code, _ := s.erase(); code != 0 || e.Updates != 0 {
		t.Errorf("erased again: %+v, exit code %d", e, code)
	}
	for _, r := range s.results() {
		if want := map[bool]update.Outcome{true: update.Delivered, false: update.Erased}[r.Data.UpdateSeq == 1]; r.Data.Vorgangsnummer == erasedVorgang && r.Data.Outcome != want {
			t.Errorf("update %d is %s", r.Data.UpdateSeq, r.Data.Outcome)
		}
	}
}
