package topology_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/fault"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// changed are the lines of a report about things that something was done to.
func changed(r topology.Report) []string {
	var lines []string
	for _, thing := range r.Things {
		if thing.Action != topology.Unchanged {
			lines = append(lines, thing.Name+" "+string(thing.Action)+thing.Note)
		}
	}
	return lines
}

func TestPartitionsChangeWhileNothingWaits(t *testing.T) {
	js := connect(t)
	setUp(t, js, topology.Options{})
	for _, step := range []struct {
		partitions int
		want       []string
	}{
		{3, []string{"stream KEX_UPDATES updated", "consumer relay-0 updated", "consumer relay-1 created", "consumer relay-2 created"}},
		{0, nil}, // Without the option the number stays.
		{2, []string{"stream KEX_UPDATES updated", "consumer relay-2 removed"}},
		{1, []string{"stream KEX_UPDATES updated", "consumer relay-1 removed", "consumer relay-0 updated"}},
	} {
		opts := topology.Options{Partitions: step.partitions}
		opts.DryRun = true
		if got := changed(setUp(t, js, opts)); !slices.Equal(got, step.want) {
			t.Errorf("dry run of %d partitions would do %q, want %q", step.partitions, got, step.want)
		}
		opts.DryRun = false
		report := setUp(t, js, opts)
		if got := changed(report); !slices.Equal(got, step.want) {
			t.Errorf("%d partitions: setup did %q, want %q", step.partitions, got, step.want)
		}
		found, err := topology.Verify(t.Context(), js)
		if err != nil || found.Partitions != report.Partitions {
			t.Errorf("Verify = %+v, %v, want %d partitions", found, err, report.Partitions)
		}
		// Nothing that is published now lies where nobody looks.
		want := make([]int, report.Partitions)
		for i := range 20 {
			number := strconv.Itoa(i)
			publish(t, js, update.SubjectPrefix+number+".dokument", "{}")
			want[topology.Partition(number, report.Partitions)]++
		}
		for partition, n := range want {
			if got := len(fetch(t, js, partition, n)); got != n {
				t.Errorf("partition %d of %d gets %d updates, want %d", partition, report.Partitions, got, n)
			}
		}
	}
}

func TestPartitionsDoNotChangeWhileUpdatesWait(t *testing.T) {
	for _, partitions := range []int{1, 4} {
		js := connect(t)
		setUp(t, js, topology.Options{Partitions: partitions})
		publish(t, js, "kex.vorgang.123456.dokument", "{}")
		before := configOf(t, js, topology.StreamUpdates).SubjectTransform
		other := 5 - partitions
		_, err := topology.Setup(t.Context(), js, topology.Options{Partitions: other})
		refusal, ok := errors.AsType[*topology.RefusedError](err)
		if !ok || refusal.Thing != "stream KEX_UPDATES" || !strings.Contains(refusal.Problem, "updates waiting: 1") ||
			!strings.Contains(refusal.Advice, "--partitions") {
			t.Fatalf("from %d to %d partitions with an update waiting: %v, want a refusal", partitions, other, err)
		}
		if after := configOf(t, js, topology.StreamUpdates).SubjectTransform; *after != *before {
			t.Errorf("the refused setup changed the transform to %+v", after)
		}
		if setUp(t, js, topology.Options{Partitions: partitions}).Changed() {
			t.Errorf("the same %d partitions change something while an update waits", partitions)
		}
	}
}

func TestPartitionsDoNotChangeWhileARelayMaySend(t *testing.T) {
	js := connect(t)
	setUp(t, js, topology.Options{Partitions: 2})
	kv, err := js.KeyValue(t.Context(), topology.BucketControl)
	if err != nil {
		t.Fatal(err)
	}
	put := func(key, value string) {
		t.Helper()
		if _, err := kv.PutString(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(why, holder string) {
		t.Helper()
		_, err := topology.Setup(t.Context(), js, topology.Options{Partitions: 4})
		refusal, ok := errors.AsType[*topology.RefusedError](err)
		if !ok || !strings.Contains(refusal.Problem, "("+holder+")") || !strings.Contains(refusal.Advice, "kexrelay pause") {
			t.Errorf("%s: %v, want a refusal that names %s", why, err, holder)
		}
		if found, err := topology.Verify(t.Context(), js); err != nil || found.Partitions != 2 {
			t.Errorf("%s: %+v, %v, want nothing changed", why, found, err)
		}
	}
	put(topology.LeasePrefix+"0", `{"replica":"a","released":true}`)
	put(topology.LeasePrefix+"1", `{"replica":"b","epoch":3}`)
	refused("a relay has a lease", "b")
	put(topology.LeasePrefix+"1", `no JSON`)
	refused("nobody can read who has it", "unknown")
	operator := topology.HoldPrefix + string(fault.Operator)
	put(operator, `{}`)
	if err := kv.Delete(t.Context(), operator); err != nil {
		t.Fatal(err)
	}
	refused("the pause is over", "unknown")
	put(operator, `{}`)
	setUp(t, js, topology.Options{Partitions: 4})
	if err := kv.Purge(t.Context(), operator); err != nil {
		t.Fatal(err)
	}
	put(topology.LeasePrefix+"1", `{"replica":"b","released":true}`)
	setUp(t, js, topology.Options{Partitions: 3})
	// What changes nothing about the partitions is nobody's trouble.
	put(topology.LeasePrefix+"1", `{"replica":"b"}`)
	setUp(t, js, topology.Options{Partitions: 3})
}

func TestAMissingTransformIsMendedOnlyWhereOrderIsKept(t *testing.T) {
	js := connect(t)
	setUp(t, js, topology.Options{})
	recreate(t, js, topology.StreamUpdates, func(c *jetstream.StreamConfig) { c.SubjectTransform = nil })
	publish(t, js, "kex.vorgang.1.dokument", "{}")
	if _, err := topology.Setup(t.Context(), js, topology.Options{Partitions: 4}); err == nil {
		t.Error("untransformed updates are spread over 4 partitions while they wait")
	}
	setUp(t, js, topology.Options{})
	publish(t, js, "kex.vorgang.1.dokument", "{}")
	want := []string{"kex.vorgang.1.dokument", "kex.update.0.1.dokument"}
	if got := fetch(t, js, 0, 2); !slices.Equal(got, want) {
		t.Errorf("relay-0 gets %q, want %q", got, want)
	}
}

func TestAnUnknownTransformIsMendedOnlyWhileNothingWaits(t *testing.T) {
	js := connect(t)
	setUp(t, js, topology.Options{Partitions: 4})
	recreate(t, js, topology.StreamUpdates, func(c *jetstream.StreamConfig) {
		c.SubjectTransform.Destination = "kex.update.{{partition(4,1)}}.{{wildcard(2)}}.{{wildcard(1)}}"
	})
	ack := publish(t, js, "kex.vorgang.1.dokument", "{}")
	_, err := topology.Setup(t.Context(), js, topology.Options{Partitions: 4})
	if err == nil || !strings.Contains(err.Error(), "an unknown number of partitions to 4 partitions") {
		t.Errorf("Setup while an update waits = %v, want a refusal", err)
	}
	stream, err := js.Stream(t.Context(), topology.StreamUpdates)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(t.Context(), ack.Sequence); err != nil {
		t.Fatal(err)
	}
	setUp(t, js, topology.Options{Partitions: 4})
	if found, err := topology.Verify(t.Context(), js); err != nil || found.Partitions != 4 {
		t.Errorf("Verify = %+v, %v, want 4 partitions", found, err)
	}
}

func TestUpdatesBeforeAMendedFilterAreNotForgotten(t *testing.T) {
	js := connect(t)
	setUp(t, js, topology.Options{})
	if err := js.DeleteConsumer(t.Context(), topology.StreamUpdates, topology.Consumer(0)); err != nil {
		t.Fatal(err)
	}
	consumer := relayConsumer()
	consumer.FilterSubject = "kex.update.0.2.>"
	if _, err := js.CreateConsumer(t.Context(), topology.StreamUpdates, consumer); err != nil {
		t.Fatal(err)
	}
	publish(t, js, "kex.vorgang.1.dokument", "{}")
	publish(t, js, "kex.vorgang.2.dokument", "{}")
	if got := fetch(t, js, 0, 1); !slices.Equal(got, []string{"kex.update.0.2.dokument"}) {
		t.Fatalf("the filtered consumer gets %q", got)
	}

	report := setUp(t, js, topology.Options{})
	last := report.Things[len(report.Things)-1]
	if last.Name != "consumer relay-0" || !strings.Contains(last.String(), "begins again at the oldest waiting update") {
		t.Errorf("setup reports %q, not that the consumer begins again", last)
	}
	if got := fetch(t, js, 0, 1); !slices.Equal(got, []string{"kex.update.0.1.dokument"}) {
		t.Errorf("relay-0 gets %q after mending, want the update it had passed over", got)
	}
}

func TestForeignConsumersAreRefused(t *testing.T) {
	for _, name := range []string{"monitor", "relay-x", "relay-01"} {
		js := connect(t)
		setUp(t, js, topology.Options{})
		if err := js.DeleteConsumer(t.Context(), topology.StreamUpdates, topology.Consumer(0)); err != nil {
			t.Fatal(err)
		}
		cfg := jetstream.ConsumerConfig{Durable: name, AckPolicy: jetstream.AckExplicitPolicy}
		if _, err := js.CreateConsumer(t.Context(), topology.StreamUpdates, cfg); err != nil {
			t.Fatal(err)
		}
		_, err := topology.Setup(t.Context(), js, topology.Options{})
		if refusal, ok := errors.AsType[*topology.RefusedError](err); !ok || !strings.Contains(refusal.Error(), `"`+name+`"`) {
			t.Errorf("Setup beside a foreign consumer %s = %v, want it refused by name", name, err)
		}
		if _, err := js.Consumer(t.Context(), topology.StreamUpdates, name); err != nil {
			t.Errorf("the foreign consumer: %v, want it left alone", err)
		}
	}
}

// forgetful loses the answer to the first removal of a consumer.
type forgetful struct {
	jetstream.JetStream

	lost *bool
}

func (f forgetful) DeleteConsumer(ctx context.Context, stream, consumer string) error {
	err := f.JetStream.DeleteConsumer(ctx, stream, consumer)
	if err == nil && !*f.lost {
		*f.lost = true
		return context.DeadlineExceeded
	}
	return err
}

func TestAConsumerThatIsAlreadyGoneIsRemoved(t *testing.T) {
	js := connect(t)
	setUp(t, js, topology.Options{Partitions: 2})
	lost := false
	setUp(t, forgetful{js, &lost}, topology.Options{Partitions: 1})
	if !lost {
		t.Fatal("no consumer was removed")
	}
	if found, err := topology.Verify(t.Context(), js); err != nil || found.Partitions != 1 {
		t.Errorf("Verify = %+v, %v, want 1 partition", found, err)
	}
}

func TestAPushConsumerIsRefused(t *testing.T) {
	js := connect(t)
	setUp(t, js, topology.Options{})
	if err := js.DeleteConsumer(t.Context(), topology.StreamUpdates, topology.Consumer(0)); err != nil {
		t.Fatal(err)
	}
	_, err := js.CreatePushConsumer(t.Context(), topology.StreamUpdates, jetstream.ConsumerConfig{
		Durable: topology.Consumer(0), DeliverSubject: "somewhere", AckPolicy: jetstream.AckExplicitPolicy,
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = topology.Setup(t.Context(), js, topology.Options{})
	if refusal, ok := errors.AsType[*topology.RefusedError](err); !ok || !strings.Contains(refusal.Error(), "nats consumer rm KEX_UPDATES relay-0") {
		t.Errorf("Setup = %v, want a refusal that says how to delete it", err)
	}
	if _, err := topology.Verify(t.Context(), js); !errors.Is(err, topology.ErrSetupNeeded) || !strings.Contains(err.Error(), "push") {
		t.Errorf("Verify = %v, want ErrSetupNeeded for a push consumer", err)
	}
}

func TestAnOperatorsPauseSurvivesSetup(t *testing.T) {
	js := connect(t)
	setUp(t, js, topology.Options{})
	until := time.Now().Add(time.Hour).UTC()
	if _, err := js.PauseConsumer(t.Context(), topology.StreamUpdates, topology.Consumer(0), until); err != nil {
		t.Fatal(err)
	}
	for _, partitions := range []int{1, 2} { // Unchanged, then with other filters.
		setUp(t, js, topology.Options{Partitions: partitions})
		consumer, err := js.Consumer(t.Context(), topology.StreamUpdates, topology.Consumer(0))
		if err != nil {
			t.Fatal(err)
		}
		if !consumer.CachedInfo().Paused {
			t.Errorf("setup of %d partitions ended the pause", partitions)
		}
	}
}

func TestSetupsAtTheSameTimeDoNoHarm(t *testing.T) {
	js := connect(t)
	errs := make([]error, 4)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { _, errs[i] = topology.Setup(t.Context(), js, topology.Options{Partitions: 2}) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if found, err := topology.Verify(t.Context(), js); err != nil || found.Partitions != 2 {
		t.Errorf("Verify = %+v, %v, want 2 partitions", found, err)
	}
}
