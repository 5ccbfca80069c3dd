package main

import (
	"bufio"
	"context"
	"fmt"
	"strconv"
	"strings"

	"kexrelay/internal/deadletter"
)

// showPlan is what --dry-run prints.
func (c *deadLettersReplayCommand) showPlan(p *printer, plan *deadletter.Plan) error {
	if p.json {
		return p.object(plan)
	}
	if err := c.printPlan(p, plan); err != nil {
		return err
	}
	c.warn(plan)
	fmt.Fprintf(c.env.stderr, "kexrelay: %s of %s would be sent; nothing was changed\n",
		count(plan.Send, "dead letter", "dead letters"), count(plan.Vorgaenge, "Vorgang", "Vorgänge"))
	return nil
}

// printPlan prints the groups.
func (*deadLettersReplayCommand) printPlan(p *printer, plan *deadletter.Plan) error {
	t := p.table(
		column{title: "GROUP", min: 8}, column{title: "SEND", right: true}, column{title: "STAY", right: true},
		column{title: "REASON"}, column{title: "STATUS"}, column{title: "KIND"},
		column{title: "OLDEST", min: 19, from: 120}, column{title: "NEWEST", min: 19, from: 120}, column{title: "ERROR"},
	)
	for _, group := range plan.Groups {
		id, status, stay := group.ID, "-", group.TooOften+group.NoWay
		if id == "" {
			id = "-"
		}
		if group.Status != 0 {
			status = strconv.Itoa(group.Status)
		}
		if plan.LeftOut[deadletter.MayBeBooked] > 0 {
			stay += group.MayBeBooked
		}
		mark := plain
		if stay > 0 {
			mark = warn
		}
		if err := t.add(text(id), text(strconv.Itoa(group.Send)), cell{strconv.Itoa(stay), mark}, cell{string(group.Reason), bad},
			text(status), text(string(group.Kind)), text(localTime(group.Oldest)), text(localTime(group.Newest)), text(group.Error)); err != nil {
			return err
		}
	}
	return t.flush()
}

// warn says on stderr what the plan leaves out and what is doubtful about the rest.
func (c *deadLettersReplayCommand) warn(plan *deadletter.Plan) {
	if c.output.json || c.output.format == formatJSON {
		return // The objects say it.
	}
	say := func(format string, args ...any) {
		fmt.Fprintln(c.env.stderr, "kexrelay:", printable(fmt.Sprintf(format, args...)))
	}
	if run := plan.Continues; run != nil {
		by := ""
		if run.By != "" {
			by = " by " + printable(run.By)
		}
		say("going on with the replay begun %s%s: dead letters above %d are not part of it (--fresh begins anew)",
			localTime(run.BegunAt), by, run.UpTo)
	}
	left := plan.LeftOut
	switch {
	case left[deadletter.MayBeBooked] > 0:
		say("%d left out that may have been booked: %s; look into the Vorgang of each, then use --allow-duplicates",
			left[deadletter.MayBeBooked], doubtful(plan))
	case plan.MayBeBooked > 0:
		say("WARNING: %s may have been booked and may be booked twice now: %s",
			count(plan.MayBeBooked, "dead letter", "dead letters"), doubtful(plan))
	}
	if n := left[deadletter.TooOften]; n > 0 {
		say("%d left out after %s or more: cure the cause, then use --force", n, count(c.maxReplays, "replay", "replays"))
	}
	if n := left[deadletter.NoWay]; n > 0 {
		say("%d left out without a subject to go back to: publish them anew", n)
	}
	if len(plan.Missing) > 0 {
		return // Each has a line of its own.
	}
	if plan.Send == 0 && len(left) == 0 {
		say("no dead letters to replay")
	}
}

// doubtful names the dead letters that may have been booked, the first of them.
func doubtful(plan *deadletter.Plan) string {
	var words []string
	for _, seq := range plan.Doubtful {
		words = append(words, strconv.FormatUint(seq, 10))
	}
	if more := plan.MayBeBooked - len(words); more > 0 {
		words = append(words, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(words, ", ")
}

// readAnswer reads a line, and stops waiting for it when ctx ends.
func readAnswer(ctx context.Context, env *environment) (string, error) {
	line := make(chan string, 1)
	go func() {
		text, _ := bufio.NewReader(env.stdin).ReadString('\n') // An end without an answer is no.
		line <- text
	}()
	select {
	case text := <-line:
		return text, nil
	case <-ctx.Done():
		fmt.Fprintln(env.stderr)
		return "", fmt.Errorf("asking: %w", ctx.Err())
	}
}
