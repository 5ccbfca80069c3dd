package deadletter

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"kexrelay/internal/embedded/embeddedtest"
	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
)

// operatorRights are what an operator needs for everything here but replay: to read and write, to remove single
// messages; nothing that makes, changes or purges a stream.
func operatorRights() *server.Permissions {
	return &server.Permissions{
		Publish: &server.SubjectPermission{Allow: []string{
			"$JS.API.INFO", "$JS.API.STREAM.INFO.>", "$JS.API.STREAM.LIST", "$JS.API.STREAM.MSG.GET.>",
			"$JS.API.STREAM.MSG.DELETE.KEX_UPDATES", "$JS.API.STREAM.MSG.DELETE.KEX_DEADLETTERS", "$JS.API.STREAM.MSG.DELETE.OBJ_KEX_DOCUMENTS",
			"$JS.API.CONSUMER.CREATE.KEX_DEADLETTERS.>", "$JS.API.CONSUMER.CREATE.KEX_RESULTS.>", "$JS.API.CONSUMER.CREATE.KEX_DEADLETTERS",
			"$JS.API.CONSUMER.CREATE.KEX_RESULTS", "$JS.API.CONSUMER.CREATE.OBJ_KEX_DOCUMENTS.>",
			"$JS.API.CONSUMER.CREATE.KV_KEX_CONTROL.>", "$JS.API.CONSUMER.INFO.>", "$JS.API.CONSUMER.MSG.NEXT.>", "$JS.API.CONSUMER.DELETE.>",
			// To take over the partition of an update that is erased, as a relay does.
			"$KV.KEX_CONTROL.lease.*", "$KV.KEX_LEDGER.>", "$JS.API.CONSUMER.CREATE.KV_KEX_LEDGER.>", "$JS.API.STREAM.PURGE.KV_KEX_LEDGER",
			"$SYS.REQ.USER.INFO", "$KV.KEX_CONTROL.replay.>", "kex.audit.>", "kex.result.>", "kex.deadletter.>", "kex.vorgang.>",
		}},
		Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
	}
}

func TestTheRightsOfAnOperatorAreEnough(t *testing.T) {
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(),
		Users: []*server.User{
			{Username: "admin", Password: "admin"}, {Username: "ops", Password: "ops", Permissions: operatorRights()},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(time.Minute) {
		t.Fatal("the server does not start")
	}
	admin := connect(t, srv.ClientURL(), nats.UserInfo("admin", "admin"))
	if _, err := topology.Setup(t.Context(), admin, topology.Options{}); err != nil {
		t.Fatal(err)
	}
	var violation error
	b := &bench{js: admin, journal: journal.New(admin, journal.Config{Source: source})}
	t.Cleanup(b.journal.Close)
	ops := connect(t, srv.ClientURL(), nats.UserInfo("ops", "ops"), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { violation = err }))
	b.store = newStore(t, ops)
	large := aDeadLetter(4, "44")
	large.Update.Header["X-Large"] = []string{strings.Repeat("v", 9000)}
	b.write(t, aDeadLetter(1, "11"), aDeadLetter(2, "22"), aDeadLetter(3, "33"), large)

	all := export(t, b.store, true)
	im, err := b.store.Importer(t.Context(), "", false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := im.Import(t.Context(), all[0]); !errors.Is(err, ErrThere) {
		t.Errorf("Import: %v", err)
	}
	if done, err := b.store.Discard(t.Context(), 1, DiscardOptions{Because: "x"}); err != nil || done.Err != nil {
		t.Errorf("Discard: %v, %v", done.Err, err)
	}
	if _, err := b.store.Edit(t.Context(), b.one(t, "2"), []byte(`["new"]`)); err != nil {
		t.Errorf("Edit: %v", err)
	}
	if _, err := b.store.History(t.Context(), b.one(t, "3")); err != nil {
		t.Errorf("History: %v", err)
	}
	if _, err := admin.Publish(t.Context(), "kex.vorgang.44.kommentare", []byte(`["waits"]`)); err != nil {
		t.Fatal(err)
	}
	if done, err := b.store.Erase(t.Context(), "44", "x"); err != nil || done != (Holding{Updates: 1, DeadLetters: 1, Objects: 1}) {
		t.Errorf("Erase: %+v, %v", done, err)
	}
	if audits := b.audits(t, journal.ActionDiscard); len(audits) != 1 || audits[0].Actor.User != "ops" {
		t.Errorf("audit %+v", audits)
	}
	ops.Conn().Close()
	if violation != nil {
		t.Errorf("NATS denied something: %v", violation)
	}
}

// A lost connection ends the work with an error; what was not done is there still, and the next try goes on with it.
func TestALostConnectionLosesNothing(t *testing.T) {
	url := embeddedtest.Run(t).URL()
	js := connect(t, url)
	if _, err := topology.Setup(t.Context(), js, topology.Options{}); err != nil {
		t.Fatal(err)
	}
	b := &bench{js: js, journal: journal.New(js, journal.Config{Source: source}), store: newStore(t, js)}
	t.Cleanup(b.journal.Close)
	for seq := range uint64(40) {
		b.write(t, aDeadLetter(seq+1, "1"))
	}
	cut := connect(t, url)
	store := New(cut, Config{Source: source})
	plan, err := store.PlanDiscard(t.Context(), nil, Filter{})
	if err != nil || plan.Count != 40 {
		t.Fatalf("plan %+v, %v", plan, err)
	}
	b.write(t, aDeadLetter(99, "1")) // Comes later: it is not in the plan.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := 0
	err = store.DiscardAll(ctx, plan, DiscardOptions{Because: "x"}, func(Discarded) {
		if done++; done == 5 {
			cut.Conn().Close()
		}
	})
	if err == nil {
		t.Error("no error although the connection is lost")
	}
	left := len(b.letters(t))
	if left < 2 || left > 36 {
		t.Errorf("%d are left after %d were done", left, done)
	}
	if plan, err = b.store.PlanDiscard(t.Context(), nil, Filter{UpTo: 40}); err != nil {
		t.Fatal(err)
	}
	if err := b.store.DiscardAll(t.Context(), plan, DiscardOptions{Because: "x"}, func(d Discarded) {
		if d.Err != nil {
			t.Errorf("again: %+v", d)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if got := len(b.audits(t, journal.ActionDiscard)); got != 40 || len(b.events(t, "discarded")) != 40 {
		t.Errorf("%d audit events", got)
	}
}
