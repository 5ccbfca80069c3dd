package topology_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

const deadline = time.Minute

func publish(t *testing.T, js jetstream.JetStream, subject, body string, opts ...jetstream.PublishOpt) *jetstream.PubAck {
	t.Helper()
	// A server of a cluster may not know the stream yet.
	opts = append(opts, jetstream.WithRetryWait(250*time.Millisecond), jetstream.WithRetryAttempts(100))
	ack, err := js.Publish(t.Context(), subject, []byte(body), opts...)
	if err != nil {
		t.Fatalf("publishing to %s: %v", subject, err)
	}
	return ack
}

// fetch takes n updates from a partition's consumer, as the relay does, and acknowledges them.
func fetch(t *testing.T, js jetstream.JetStream, partition, n int) []string {
	t.Helper()
	consumer, err := js.Consumer(t.Context(), topology.StreamUpdates, topology.Consumer(partition))
	if err != nil {
		t.Fatal(err)
	}
	if n == 0 {
		return nil
	}
	batch, err := consumer.Fetch(n, jetstream.FetchPriorityGroup(topology.PriorityGroup), jetstream.FetchMaxWait(deadline))
	if err != nil {
		t.Fatal(err)
	}
	var subjects []string
	for msg := range batch.Messages() {
		subjects = append(subjects, msg.Subject())
		if err := msg.DoubleAck(t.Context()); err != nil {
			t.Errorf("acknowledging %s: %v", msg.Subject(), err)
		}
	}
	if err := batch.Error(); err != nil {
		t.Fatal(err)
	}
	// Otherwise the next fetch, another client to the server, would wait for PinnedTTL.
	stream, err := js.Stream(t.Context(), topology.StreamUpdates)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.UnpinConsumer(t.Context(), topology.Consumer(partition), topology.PriorityGroup); err != nil {
		t.Fatal(err)
	}
	return subjects
}

func TestUpdatesAreStoredByPartitionAndTheRestAsItCame(t *testing.T) {
	vorgang := update.SubjectPrefix
	for _, partitions := range []int{1, 4} {
		t.Run(fmt.Sprint(partitions, " partitions"), func(t *testing.T) {
			js := connect(t)
			setUp(t, js, topology.Options{Partitions: partitions})
			own := topology.Partition("123456", partitions)
			tests := []struct {
				published, stored string
				partition         int
			}{
				{vorgang + "123456.kommentare", topology.StoredSubject(own, "123456", update.Comments), own},
				{vorgang + "123456.dokument", topology.StoredSubject(own, "123456", update.Document), own},
				{vorgang + "123456.else", topology.StoredSubject(own, "123456", "else"), own},
				{vorgang + "*.dokument", vorgang + "*.dokument", 0},
				{vorgang + ">", vorgang + ">", 0},
				{vorgang + "a.b.c", vorgang + "a.b.c", 0},
				{vorgang + "x", vorgang + "x", 0},
			}
			var want [4][]string
			for _, test := range tests {
				ack := publish(t, js, test.published, "[]")
				stream, err := js.Stream(t.Context(), topology.StreamUpdates)
				if err != nil {
					t.Fatal(err)
				}
				msg, err := stream.GetMsg(t.Context(), ack.Sequence)
				if err != nil || msg.Subject != test.stored {
					t.Errorf("%s is stored as %v, %v, want %s", test.published, msg, err, test.stored)
				}
				if got := topology.PublishedSubject(test.stored); got != test.published {
					t.Errorf("PublishedSubject(%s) = %s, want %s", test.stored, got, test.published)
				}
				want[test.partition] = append(want[test.partition], test.stored)
			}
			for partition := range partitions {
				got := fetch(t, js, partition, len(want[partition]))
				if fmt.Sprint(got) != fmt.Sprint(want[partition]) {
					t.Errorf("partition %d gets %q, want %q", partition, got, want[partition])
				}
			}
			if n := waiting(t, js); n != 0 {
				t.Errorf("%d updates are left for nobody", n)
			}
		})
	}
}

func waiting(t *testing.T, js jetstream.JetStream) uint64 {
	t.Helper()
	stream, err := js.Stream(t.Context(), topology.StreamUpdates)
	if err != nil {
		t.Fatal(err)
	}
	return stream.CachedInfo().State.Msgs
}

func TestPartitionIsTheServersOwnChoice(t *testing.T) {
	js := connect(t)
	setUp(t, js, topology.Options{Partitions: 7})
	used := map[int]bool{}
	for i := range 100 {
		number := fmt.Sprintf("%d-Ä_%d", i*7919, i)
		ack := publish(t, js, update.SubjectPrefix+number+".dokument", "{}")
		stream, err := js.Stream(t.Context(), topology.StreamUpdates)
		if err != nil {
			t.Fatal(err)
		}
		msg, err := stream.GetMsg(t.Context(), ack.Sequence)
		if err != nil {
			t.Fatal(err)
		}
		partition := topology.Partition(number, 7)
		if want := topology.StoredSubject(partition, number, update.Document); msg.Subject != want {
			t.Errorf("the server stores %s as %s, want %s", number, msg.Subject, want)
		}
		used[partition] = true
	}
	if len(used) != 7 {
		t.Errorf("100 Vorgänge lie in %d of 7 partitions", len(used))
	}
}

func TestAFullStreamRefusesThePublisher(t *testing.T) {
	for _, name := range []string{topology.StreamUpdates, topology.StreamDeadLetters} {
		t.Run(name, func(t *testing.T) {
			js := connect(t)
			setUp(t, js, topology.Options{MaxBytes: map[string]int64{name: 4096}})
			subject := map[string]string{
				topology.StreamUpdates:     "kex.vorgang.1.kommentare",
				topology.StreamDeadLetters: "kex.deadletter.gone.1.kommentare",
			}[name]
			first := publish(t, js, subject, "the oldest")
			var err error
			for range 10 {
				if _, err = js.Publish(t.Context(), subject, make([]byte, 1000)); err != nil {
					break
				}
			}
			if refused, ok := errors.AsType[*jetstream.APIError](err); !ok || refused.ErrorCode != 10077 {
				t.Fatalf("publishing into a full stream: %v, want error 10077", err)
			}
			stream, err := js.Stream(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			if msg, err := stream.GetMsg(t.Context(), first.Sequence); err != nil || string(msg.Data) != "the oldest" {
				t.Errorf("the oldest message: %v, %v, want it kept", msg, err)
			}
			// Making a full stream smaller must not throw anything away either.
			setUp(t, js, topology.Options{MaxBytes: map[string]int64{name: 1024}})
			if msg, err := stream.GetMsg(t.Context(), first.Sequence); err != nil || string(msg.Data) != "the oldest" {
				t.Errorf("the oldest message after shrinking: %v, %v, want it kept", msg, err)
			}
		})
	}
}

func TestARepeatedMessageIDIsNotStoredAgain(t *testing.T) {
	js := connect(t)
	setUp(t, js, topology.Options{})
	for stream, subject := range map[string]string{
		topology.StreamUpdates: "kex.vorgang.1.kommentare", topology.StreamResults: "kex.result.delivered.1.kommentare",
		topology.StreamDeadLetters: "kex.deadletter.gone.1.kommentare", topology.StreamAudit: "kex.audit.pause",
	} {
		first := publish(t, js, subject, "[]", jetstream.WithMsgID("id"))
		again := publish(t, js, subject, "[]", jetstream.WithMsgID("id"))
		if first.Duplicate || !again.Duplicate || again.Sequence != first.Sequence {
			t.Errorf("%s: first %+v, again %+v, want only the second a duplicate", stream, first, again)
		}
		if window := configOf(t, js, stream).Duplicates; window != topology.DuplicateWindow {
			t.Errorf("%s forgets IDs after %s, want %s", stream, window, topology.DuplicateWindow)
		}
	}
}

func TestAPublishersHeadersCannotRemoveUpdates(t *testing.T) {
	js := connect(t)
	setUp(t, js, topology.Options{})
	first := publish(t, js, "kex.vorgang.1.kommentare", "[]")
	for header, value := range map[string]string{"Nats-Rollup": "all", "Nats-TTL": "1s"} {
		msg := &nats.Msg{Subject: "kex.vorgang.1.kommentare", Header: nats.Header{header: {value}}, Data: []byte("[]")}
		if _, err := js.PublishMsg(t.Context(), msg); err == nil {
			t.Errorf("an update with %s: %s was accepted", header, value)
		}
	}
	stream, err := js.Stream(t.Context(), topology.StreamUpdates)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.GetMsg(t.Context(), first.Sequence); err != nil {
		t.Errorf("the update before: %v, want it kept", err)
	}
}

// Only the leader answers STREAM.MSG.GET; followers answer DIRECT.GET too, and may lag.
func TestLookUpsGoToTheLeader(t *testing.T) {
	url := embeddedtest.Run(t).URL()
	js := connectTo(t, url)
	setUp(t, js, topology.Options{})
	asked := watchRequests(t, url)

	ledger, err := js.KeyValue(t.Context(), topology.BucketLedger)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.Put(t.Context(), "123456", []byte("idle")); err != nil {
		t.Fatal(err)
	}
	if entry, err := ledger.Get(t.Context(), "123456"); err != nil || string(entry.Value()) != "idle" {
		t.Errorf("Get = %v, %v, want idle", entry, err)
	}
	asked("$JS.API.STREAM.MSG.GET.KV_KEX_LEDGER")

	objects, err := js.ObjectStore(t.Context(), topology.BucketDocuments)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := objects.PutString(t.Context(), "a", "content"); err != nil {
		t.Fatal(err)
	}
	if content, err := objects.GetString(t.Context(), "a"); err != nil || content != "content" {
		t.Errorf("GetString = %q, %v, want content", content, err)
	}
	asked("$JS.API.STREAM.MSG.GET.OBJ_KEX_DOCUMENTS")

	for _, name := range []string{topology.StreamUpdates, topology.StreamResults, topology.StreamDeadLetters} {
		stream, err := js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.GetMsg(t.Context(), 1); !errors.Is(err, jetstream.ErrMsgNotFound) {
			t.Errorf("GetMsg(1) of the empty %s = %v, want not found", name, err)
		}
		asked("$JS.API.STREAM.MSG.GET." + name)
	}
}

// watchRequests gives a function that waits until a request to a subject of JetStream's API was made and fails the
// test if a direct get came before it.
func watchRequests(t *testing.T, url string) func(want string) {
	t.Helper()
	conn, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	requests, err := conn.SubscribeSync("$JS.API.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	return func(want string) {
		t.Helper()
		for {
			msg, err := requests.NextMsg(deadline)
			if err != nil {
				t.Fatalf("no request to %s: %v", want, err)
			}
			if len(msg.Subject) > 15 && msg.Subject[:15] == "$JS.API.DIRECT." {
				t.Errorf("a direct get: %s", msg.Subject)
			}
			if msg.Subject == want {
				return
			}
		}
	}
}

func TestBucketsAreWhatTheClientMakes(t *testing.T) {
	js := connect(t)
	setUp(t, js, topology.Options{})
	if _, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "OTHER"}); err != nil {
		t.Fatal(err)
	}
	compareBuckets(t, configOf(t, js, "KV_"+topology.BucketLedger), configOf(t, js, "KV_OTHER"))

	if _, err := js.CreateObjectStore(t.Context(), jetstream.ObjectStoreConfig{Bucket: "OTHER", MaxBytes: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	compareBuckets(t, configOf(t, js, "OBJ_"+topology.BucketDocuments), configOf(t, js, "OBJ_OTHER"))
}

func compareBuckets(t *testing.T, ours, theirs jetstream.StreamConfig) {
	t.Helper()
	if ours.AllowDirect || !theirs.AllowDirect {
		t.Errorf("allow_direct of %s is %v, of %s %v: want it off in ours only", ours.Name, ours.AllowDirect, theirs.Name, theirs.AllowDirect)
	}
	ours.Name, ours.Description, ours.Subjects, ours.AllowDirect = "", "", nil, true
	theirs.Name, theirs.Description, theirs.Subjects = "", "", nil
	if got, want := fmt.Sprintf("%+v", ours), fmt.Sprintf("%+v", theirs); got != want {
		t.Errorf("bucket is\n%s, the client makes\n%s", got, want)
	}
}
