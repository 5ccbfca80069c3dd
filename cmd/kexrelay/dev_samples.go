package main

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/journal"
	"kexrelay/internal/queue"
	"kexrelay/internal/simulator"
	"kexrelay/internal/update"
)

// devScript makes the simulated API refuse and fail where the samples need it. The Vorgänge are named for it.
func devScript() simulator.Script {
	unavailable := simulator.Answer{Status: http.StatusServiceUnavailable}
	throttled := simulator.Answer{Status: http.StatusTooManyRequests, RetryAfter: 2 * time.Second}
	always := func(status int) *simulator.Answer { return &simulator.Answer{Status: status} }
	return simulator.Script{
		Latency: simulator.Fixed(50 * time.Millisecond),
		Vorgaenge: []simulator.VorgangRule{
			{Match: []string{"410410"}, Always: always(http.StatusGone)},
			{Match: []string{"400400"}, Always: always(http.StatusBadRequest)},
			{Match: []string{"503503"}, Sequence: []simulator.Step{{Answer: unavailable, Times: 2}}},
			{Match: []string{"429429"}, Sequence: []simulator.Step{{Answer: throttled}}},
		},
	}
}

// sample is an update and what must become of it.
type sample struct {
	what    string
	vorgang string
	kind    update.Kind
	body    string

	outcome  update.Outcome
	reason   fault.Reason
	status   int
	attempts int

	published queue.PublishResult
	result    journal.Event
}

func devSamples() []*sample {
	document := `{"filename":"testdokument.pdf","base64Content":"JVBERi0xLjMKJcTl8uXrp"}`
	return []*sample{
		{
			what: "a comment", vorgang: "123456", kind: update.Comments, body: `["Testkommentar"]`,
			outcome: update.Delivered, status: http.StatusOK, attempts: 1,
		},
		{
			what: "a document", vorgang: "123456", kind: update.Document, body: document,
			outcome: update.Delivered, status: http.StatusCreated, attempts: 1,
		},
		{
			what: "two comments at once", vorgang: "777777", kind: update.Comments, body: `["Unterlagen vollständig","Bitte prüfen"]`,
			outcome: update.Delivered, status: http.StatusOK, attempts: 1,
		},
		{
			what: "503 twice, then booked", vorgang: "503503", kind: update.Document, body: document,
			outcome: update.Delivered, status: http.StatusCreated, attempts: 3,
		},
		{
			what: "429 with Retry-After", vorgang: "429429", kind: update.Comments, body: `["nach der Drosselung"]`,
			outcome: update.Delivered, status: http.StatusOK, attempts: 2,
		},
		{
			what: "a deleted Vorgang", vorgang: "410410", kind: update.Document, body: document,
			outcome: update.DeadLettered, reason: fault.Gone, status: http.StatusGone, attempts: 1,
		},
		{
			what: "refused as malformed", vorgang: "400400", kind: update.Comments, body: `["lehnt die API ab"]`,
			outcome: update.DeadLettered, reason: fault.BadRequest, status: http.StatusBadRequest, attempts: 1,
		},
		{
			what: "an invalid message", vorgang: "888888", kind: update.Comments, body: `["nie geschlossen`,
			outcome: update.DeadLettered, reason: fault.Invalid,
		},
	}
}

// samples publishes the samples, follows each to its result and prints the summary. right reports whether every one
// came out as it must.
func (c *devCommand) samples(ctx context.Context) (right bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, devLimit)
	defer cancel()
	samples := devSamples()
	results := journal.NewResults(c.conn.JetStream())
	from, err := results.Position(ctx)
	if err != nil {
		return false, err
	}
	before := len(c.sim.Ledger())
	publisher := queue.NewPublisher(c.conn)
	waiting := make([]journal.Awaited, 0, len(samples))
	bySeq := make(map[uint64]*sample, len(samples))
	c.out.printf("\n")
	for _, s := range samples {
		s.published, err = publisher.Publish(ctx, queue.PublishRequest{Vorgangsnummer: s.vorgang, Kind: s.kind, Body: []byte(s.body)})
		if err != nil {
			return false, err
		}
		c.out.printf("%s  published  %-10s %-10s  %s\n", time.Now().Format(time.TimeOnly), s.vorgang, s.kind, s.what)
		bySeq[s.published.Seq] = s
		waiting = append(waiting, journal.Awaited{Seq: s.published.Seq})
	}
	for e, err := range results.WaitFor(ctx, from, waiting) {
		if err != nil {
			return false, err
		}
		bySeq[e.Data.UpdateSeq].result = e
		c.out.printf("%s  result     %-10s %-10s  %s%s\n", time.Now().Format(time.TimeOnly), e.Data.Vorgangsnummer, e.Data.Kind,
			e.Data.Outcome, bracket(string(e.Data.Reason)))
	}
	return c.summary(samples, c.sim.Ledger()[before:])
}

// summary prints what became of the samples, checked against the results and against what the API really booked.
func (c *devCommand) summary(samples []*sample, booked []simulator.Booking) (right bool, err error) {
	times := make(map[string]int)
	for _, b := range booked {
		times[b.Vorgangsnummer+string(b.Body)]++
	}
	c.out.printf("\n")
	p, err := (&outputFlags{format: formatTable}).open(c.env)
	if err != nil {
		return false, err
	}
	t := p.table(
		column{title: "SAMPLE", min: 22}, column{title: "VORGANG"}, column{title: "OUTCOME", min: 12}, column{title: "REASON", min: 11},
		column{title: "STATUS", right: true, from: 100}, column{title: "ATTEMPTS", right: true, from: 100}, column{title: "BOOKED", right: true},
		column{title: "AS IT SHOULD"}, column{title: "TRACE ID", from: 110},
	)
	right = true
	for _, s := range samples {
		d, n := s.result.Data, times[s.vorgang+s.body]
		wanted := 0
		if s.outcome == update.Delivered {
			wanted = 1
		}
		correct := d.Outcome == s.outcome && d.Reason == s.reason && d.Status == s.status && d.Attempts == s.attempts && n == wanted
		right = right && correct
		verdict := cell{text: "yes", colour: good}
		if !correct {
			verdict = cell{text: fmt.Sprintf("NO: want %s %s %d in %d", s.outcome, s.reason, s.status, s.attempts), colour: bad}
		}
		status := ""
		if d.Status != 0 {
			status = strconv.Itoa(d.Status)
		}
		if err := t.add(text(s.what), text(s.vorgang), text(string(d.Outcome)), text(string(d.Reason)), text(status),
			text(strconv.Itoa(d.Attempts)), text(strconv.Itoa(n)), verdict, text(d.TraceID)); err != nil {
			return false, err
		}
	}
	return right, t.flush()
}
