package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"kexrelay/internal/embedded/embeddedtest"
)

// rolesShown are the roles in the order of the tables.
func rolesShown() []string {
	return []string{"publisher", "reader", "clerk", "relay", "operator", "monitor", "setup"}
}

// roleOperation is one thing to do in NATS, with the roles that may. It does no harm where it is allowed.
type roleOperation struct {
	name    string
	subject string
	body    string
	listen  bool // Subscribe to the subject instead of publishing to it.
	may     string
}

const (
	nobodyMay  = ""
	aComment   = `["a comment"]`
	aConsumer  = `{"stream_name":"%s","config":{"ack_policy":"none","inactive_threshold":1000000000,"mem_storage":true}}`
	noSuchSeq  = `{"seq":999999}`
	noSubjects = `{"filter":"none"}`
)

func roleOperations() []roleOperation {
	create := func(stream string) (string, string) {
		return "$JS.API.CONSUMER.CREATE." + stream + ".probe", fmt.Sprintf(aConsumer, stream)
	}
	read := func(name, stream, may string) roleOperation {
		subject, body := create(stream)
		return roleOperation{name: name, subject: subject, body: body, may: may}
	}
	api := func(name, verb, body, may string) roleOperation {
		return roleOperation{name: name, subject: "$JS.API." + verb, body: body, may: may}
	}
	publish := func(name, subject, body, may string) roleOperation {
		return roleOperation{name: name, subject: subject, body: body, may: may}
	}
	listen := func(name, subject, may string) roleOperation {
		return roleOperation{name: name, subject: subject, listen: true, may: may}
	}
	return []roleOperation{
		publish("publish an update", "kex.vorgang.7.kommentare", aComment, "publisher clerk operator"),
		publish("publish what is no update", "kex.vorgang.7.other", aComment, nobodyMay),
		listen("listen to updates", "kex.vorgang.>", nobodyMay),
		api("read updates", "STREAM.MSG.GET.KEX_UPDATES", noSuchSeq, "relay operator"),
		api("take updates", "CONSUMER.MSG.NEXT.KEX_UPDATES.relay-9", `{"batch":1}`, "relay"),
		publish("acknowledge updates", "$JS.ACK.KEX_UPDATES.relay-9.1.1.1.1.0", "+ACK", "relay"),
		api("delete an update", "STREAM.MSG.DELETE.KEX_UPDATES", noSuchSeq, "operator"),
		api("purge updates", "STREAM.PURGE.KEX_UPDATES", noSubjects, nobodyMay),
		api("back updates up", "STREAM.SNAPSHOT.KEX_UPDATES", `{}`, nobodyMay),
		api("create a consumer of updates", "CONSUMER.CREATE.KEX_UPDATES.probe", `{}`, "setup"),
		api("create one in the old way", "CONSUMER.DURABLE.CREATE.KEX_UPDATES.probe", `{}`, nobodyMay),
		api("delete a consumer of updates", "CONSUMER.DELETE.KEX_UPDATES.none", "", "setup"),
		api("reset a consumer of updates", "CONSUMER.RESET.KEX_UPDATES.none", `{}`, nobodyMay), // It loses updates in a cluster.
		api("pause a consumer of updates", "CONSUMER.PAUSE.KEX_UPDATES.none", `{}`, nobodyMay),

		publish("store a document", "$O.KEX_DOCUMENTS.C.probe", "x", "publisher clerk relay operator"),
		read("read documents", "OBJ_KEX_DOCUMENTS", "relay operator"),
		api("read a document's chunk", "STREAM.MSG.GET.OBJ_KEX_DOCUMENTS", noSuchSeq, "relay operator"),
		api("remove documents", "STREAM.PURGE.OBJ_KEX_DOCUMENTS", noSubjects, "relay operator"),

		read("read results", "KEX_RESULTS", "reader clerk relay operator monitor"),
		listen("listen to results", "kex.result.>", "reader clerk operator monitor"),
		publish("write a result", "kex.result.probe.7.kommentare", `{}`, "relay operator"),
		api("delete a result", "STREAM.MSG.DELETE.KEX_RESULTS", noSuchSeq, nobodyMay),
		api("purge results", "STREAM.PURGE.KEX_RESULTS", noSubjects, nobodyMay),

		read("read dead letters", "KEX_DEADLETTERS", "relay operator"),
		api("read a dead letter", "STREAM.MSG.GET.KEX_DEADLETTERS", noSuchSeq, "relay operator"),
		listen("listen to dead letters", "kex.deadletter.>", nobodyMay),
		publish("write a dead letter", "kex.deadletter.probe.7.kommentare", aComment, "relay operator"),
		api("delete a dead letter", "STREAM.MSG.DELETE.KEX_DEADLETTERS", noSuchSeq, "operator"),
		api("purge dead letters", "STREAM.PURGE.KEX_DEADLETTERS", noSubjects, nobodyMay),

		publish("write what an operator did", "kex.audit.probe", `{}`, "operator"),
		read("read what operators did", "KEX_AUDIT", "operator"),
		api("delete what an operator did", "STREAM.MSG.DELETE.KEX_AUDIT", noSuchSeq, nobodyMay),
		api("purge what operators did", "STREAM.PURGE.KEX_AUDIT", noSubjects, nobodyMay),

		publish("write holds and leases", "$KV.KEX_CONTROL.probe", "x", "relay operator"),
		read("read holds and leases", "KV_KEX_CONTROL", "relay operator monitor"),
		publish("write the ledger", "$KV.KEX_LEDGER.probe", "x", "relay operator"),
		read("read the ledger", "KV_KEX_LEDGER", "relay operator"),

		api("create a stream of ours", "STREAM.CREATE.KEX_UPDATES", `{}`, "setup"),
		api("change a stream", "STREAM.UPDATE.KEX_UPDATES", `{}`, "setup"),
		api("create another stream", "STREAM.CREATE.OTHER", `{}`, nobodyMay),
		api("delete a stream", "STREAM.DELETE.KEX_UPDATES", "", nobodyMay),
		api("move a stream's leader", "STREAM.LEADER.STEPDOWN.KEX_UPDATES", `{}`, nobodyMay),
		api("ask how full a stream is", "STREAM.INFO.KEX_UPDATES", "", "relay operator monitor setup"),
		api("list streams", "STREAM.LIST", "", "operator monitor"),

		publish("ask the replicas", "kex.replica.state", "", "operator monitor"),
		publish("have an update taken back or erased", "kex.replica.cancel.probe", `{}`, "operator"),
		listen("take it back or erase it", "kex.replica.cancel.probe", "relay"),
		listen("answer as a replica", "kex.replica.state", "relay"),
		listen("listen to consumers' events", "$JS.EVENT.ADVISORY.CONSUMER.>", "monitor"),
		listen("listen to all requests", "$JS.EVENT.ADVISORY.API", nobodyMay),
		listen("listen to the relay's answers", "_INBOX_relay.>", "relay"),
		listen("listen to the operator's answers", "_INBOX_operator.>", "operator"),
		listen("listen to anybody's answers", "_INBOX.>", nobodyMay),
		listen("listen to everything", ">", nobodyMay),
		publish("answer in another's place", "_INBOX_operator.x", "x", nobodyMay),
	}
}

// securedConnection connects as a role, as any NATS client would.
func securedConnection(t *testing.T, s *embeddedtest.Secured, role string) *nats.Conn {
	t.Helper()
	key, err := nats.NkeyOptionFromSeed(s.File(role + ".nk"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := nats.Connect(s.URL(), key, nats.RootCAs(s.File("ca.crt")), nats.CustomInboxPrefix("_INBOX_"+role),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// The table this prints is what a role may do: the server's own word for each.
func TestRoleMatrix(t *testing.T) {
	s := embeddedtest.RunSecured(t, embeddedtest.SecuredOptions{})
	if code, output := asRole(t.Context(), s, "setup", []string{"setup"}); code != 0 {
		t.Fatalf("setup: exit code %d:\n%s", code, output)
	}
	connections := map[string]*nats.Conn{}
	for _, role := range rolesShown() {
		connections[role] = securedConnection(t, s, role)
	}
	s.Refused()
	var table strings.Builder
	row(&table, "", rolesShown())
	checks, surprises := 0, 0
	for _, op := range roleOperations() {
		var cells []string
		for _, role := range rolesShown() {
			want, got := slices.Contains(strings.Fields(op.may), role), permitted(t, s, connections[role], op)
			cell := "-"
			if got {
				cell = "yes"
			}
			if got != want {
				cell += " (!)"
				surprises++
				t.Errorf("%s: %s (%s): permitted %t, want %t", role, op.name, op.subject, got, want)
			}
			cells = append(cells, cell)
			checks++
		}
		row(&table, op.name, cells)
	}
	t.Logf("\n%s\n%d checks, %d surprises", &table, checks, surprises)
	if code, output := asRole(t.Context(), s, "setup", []string{"setup", "--dry-run"}); code != 0 {
		t.Errorf("afterwards the topology is not what it was: exit code %d:\n%s", code, output)
	}
}

func row(table *strings.Builder, name string, cells []string) {
	fmt.Fprintf(table, "%-36s", name)
	for _, cell := range cells {
		fmt.Fprintf(table, "%-11s", cell)
	}
	table.WriteString("\n")
}

// permitted does it and asks the server's log whether it refused. The round trip behind it makes sure that the log has it.
func permitted(t *testing.T, s *embeddedtest.Secured, conn *nats.Conn, op roleOperation) bool {
	t.Helper()
	var err error
	if op.listen {
		var sub *nats.Subscription
		if sub, err = conn.SubscribeSync(op.subject); err == nil {
			defer sub.Unsubscribe() //nolint:errcheck // A refused one is none.
		}
	} else {
		err = conn.PublishRequest(op.subject, conn.NewInbox(), []byte(op.body))
	}
	if err == nil {
		err = conn.Flush()
	}
	if err != nil {
		t.Fatalf("%s: %v", op.name, err)
	}
	refused := s.Refused()
	for _, r := range refused {
		if r.Subject != op.subject {
			t.Fatalf("%s: the server refused something else: %s", op.name, r.Line)
		}
	}
	return len(refused) == 0
}

// What a role is not for, its commands cannot do: they fail, and change nothing.
func TestCommandsOfOtherRolesFail(t *testing.T) {
	s := embeddedtest.RunSecured(t, embeddedtest.SecuredOptions{})
	for _, c := range []roleCommand{
		{"setup", "setup", 0}, {"publisher", "publish|comments|--vorgang|1|a comment", 0},
	} {
		if code, output := asRole(t.Context(), s, c.role, strings.Split(c.args, "|")); code != c.code {
			t.Fatalf("%s: exit code %d:\n%s", c.name(), code, output)
		}
	}
	operator := securedConnection(t, s, "operator")
	for _, subject := range []string{"kex.deadletter.gone.1.kommentare", "kex.result.deadlettered.1.kommentare"} {
		if _, err := operator.Request(subject, []byte(aComment), 10*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	before := whatIsStored(t, s)
	commands := []struct {
		args  string
		roles string // Who must fail.
	}{
		{"publish|comments|--vorgang|1|x", "reader relay monitor setup"},
		{"publish|comments|--vorgang|1|--wait=1s|x", "publisher reader relay monitor setup"},
		{"results|list", "publisher setup"},
		{"deadletters|list", "publisher reader clerk monitor setup"},
		{"deadletters|discard|--all|--because|x|--yes", "publisher reader clerk monitor setup"},
		{"updates|list", "publisher reader clerk monitor setup"},
		{"updates|cancel|1|--reason|x|--yes", "publisher reader clerk monitor setup"},
		{"deadletters|erase|--vorgang|1|--because|x|--yes", "publisher reader clerk monitor setup"},
		{"trace|KEX_UPDATES-1", "publisher reader clerk monitor setup"},
		{"pause|--for|1h", "publisher reader clerk monitor setup"},
		{"status", "publisher reader clerk setup"},
		{"setup|--max-bytes|KEX_UPDATES=2GiB", "publisher reader clerk relay operator monitor"},
	}
	var all sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, c := range commands {
		for role := range strings.FieldsSeq(c.roles) {
			all.Go(func() {
				args := append(strings.Split(c.args, "|"), "--timeout", "10s") // That many handshakes at once take their time.
				switch code, output := asRole(ctx, s, role, args); {
				case code == 0:
					t.Errorf("%s: %s: it works:\n%s", role, c.args, output)
				case !strings.Contains(strings.ToLower(output), "permi") && !strings.Contains(strings.ToLower(output), "denie"):
					t.Errorf("%s: %s: it does not say that a right is missing:\n%s", role, c.args, output)
				}
			})
		}
	}
	all.Wait()
	if after := whatIsStored(t, s); after != before {
		t.Errorf("afterwards there is\n%s\nand before there was\n%s", after, before)
	}
}

// whatIsStored is what is in the streams and what is held, as the monitor sees it.
func whatIsStored(t *testing.T, s *embeddedtest.Secured) string {
	t.Helper()
	code, output := asRole(t.Context(), s, "monitor", []string{"status", "--json"})
	if code != exitUnhealthy { // No relay runs.
		t.Fatalf("status: exit code %d:\n%s", code, output)
	}
	var facts struct {
		Topology    struct{ Rooms []roomStatus }
		Holds       []struct{ Reason string }
		DeadLetters struct{ Count uint64 }
	}
	if err := json.Unmarshal([]byte(output), &facts); err != nil {
		t.Fatalf("status: %v:\n%s", err, output)
	}
	if len(facts.Topology.Rooms) == 0 || facts.DeadLetters.Count == 0 {
		t.Fatalf("status says nothing of what is stored:\n%s", output)
	}
	return fmt.Sprintf("%+v", facts)
}
