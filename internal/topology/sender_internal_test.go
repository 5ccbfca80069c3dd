package topology

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/embedded/embeddedtest"
)

func TestALeaseThatIsNotRenewedCountsAsFree(t *testing.T) {
	nc, err := nats.Connect(embeddedtest.Run(t).URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Setup(t.Context(), js, Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), controlSubjects+LeasePrefix+"0", []byte(`{"replica":"dead"}`)); err != nil {
		t.Fatal(err)
	}
	if holder, err := askSender(t.Context(), js, time.Minute); err != nil || holder != "dead" {
		t.Errorf("just renewed: %q, %v", holder, err)
	}
	if holder, err := askSender(t.Context(), js, 0); err != nil || holder != "" {
		t.Errorf("not renewed for long: %q, %v", holder, err)
	}
}
