package topology

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// field is a setting that setup compares. Settings without an entry are the operator's.
type field[C any] struct {
	name string
	// value is printed in reports and compared: equal texts are equal settings.
	value func(c *C) string
	// fixed reports that servers refuse this change on something that exists; nil means they never do.
	fixed func(found, wanted *C) bool
	// tunable marks a setting serve can live with when it differs.
	tunable bool
}

// compare lists the settings in which found differs from wanted.
func compare[C any](fields []field[C], found, wanted *C) []Change {
	var changes []Change
	for _, f := range fields {
		from, to := f.value(found), f.value(wanted)
		if from == to {
			continue
		}
		changes = append(changes, Change{
			Field: f.name, Old: from, New: to,
			fixed: f.fixed != nil && f.fixed(found, wanted), tunable: f.tunable,
		})
	}
	return changes
}

// streamFields are the settings of a stream that updates depend on, by their names in the nats CLI's JSON.
func streamFields() []field[jetstream.StreamConfig] {
	type cfg = jetstream.StreamConfig
	always := func(_, _ *cfg) bool { return true }
	return []field[cfg]{
		{name: "subjects", value: func(c *cfg) string { return list(c.Subjects) }},
		{
			name: "retention", value: func(c *cfg) string { return strings.ToLower(c.Retention.String()) },
			fixed: func(found, wanted *cfg) bool {
				return found.Retention == jetstream.WorkQueuePolicy || wanted.Retention == jetstream.WorkQueuePolicy
			},
		},
		{name: "storage", value: func(c *cfg) string { return strings.ToLower(c.Storage.String()) }, fixed: always},
		{name: "num_replicas", value: func(c *cfg) string { return number(c.Replicas) }},
		{name: "discard", value: func(c *cfg) string { return discard(c.Discard) }},
		{name: "discard_new_per_subject", value: func(c *cfg) string { return yesNo(c.DiscardNewPerSubject) }},
		{name: "max_bytes", value: func(c *cfg) string { return limit(c.MaxBytes) }},
		{name: "max_age", value: func(c *cfg) string { return age(c.MaxAge) }},
		{name: "max_msgs", value: func(c *cfg) string { return limit(c.MaxMsgs) }},
		{name: "max_msgs_per_subject", value: func(c *cfg) string { return limit(c.MaxMsgsPerSubject) }},
		{name: "max_msg_size", value: func(c *cfg) string { return limit(c.MaxMsgSize) }},
		{name: "max_consumers", value: func(c *cfg) string { return limit(c.MaxConsumers) }},
		{name: "consumer_limits", value: func(c *cfg) string { return consumerLimits(c.ConsumerLimits) }},
		{name: "duplicate_window", value: func(c *cfg) string { return c.Duplicates.String() }},
		{name: "subject_transform", value: func(c *cfg) string { return transformText(c.SubjectTransform) }},
		{name: "allow_direct", value: func(c *cfg) string { return yesNo(c.AllowDirect) }},
		{name: "no_ack", value: func(c *cfg) string { return yesNo(c.NoAck) }},
		{name: "sealed", value: func(c *cfg) string { return yesNo(c.Sealed) }, fixed: always},
		{
			name: "deny_delete", value: func(c *cfg) string { return yesNo(c.DenyDelete) },
			fixed: func(found, _ *cfg) bool { return found.DenyDelete },
		},
		{
			name: "deny_purge", value: func(c *cfg) string { return yesNo(c.DenyPurge) },
			fixed: func(found, _ *cfg) bool { return found.DenyPurge },
		},
		{name: "allow_rollup_hdrs", value: func(c *cfg) string { return yesNo(c.AllowRollup) }},
		{
			name: "allow_msg_ttl", value: func(c *cfg) string { return yesNo(c.AllowMsgTTL) },
			fixed: func(found, _ *cfg) bool { return found.AllowMsgTTL },
		},
		{name: "subject_delete_marker_ttl", value: func(c *cfg) string { return age(c.SubjectDeleteMarkerTTL) }},
		{name: "allow_msg_counter", value: func(c *cfg) string { return yesNo(c.AllowMsgCounter) }, fixed: always},
		{name: "allow_msg_schedules", value: func(c *cfg) string { return yesNo(c.AllowMsgSchedules) }, fixed: always},
		{name: "persist_mode", value: func(c *cfg) string { return strings.ToLower(c.PersistMode.String()) }, fixed: always},
		{name: "mirror", value: func(c *cfg) string { return source(c.Mirror) }},
		{name: "sources", value: func(c *cfg) string { return sources(c.Sources) }},
	}
}

// consumerFields are the settings of a relay consumer, by their names in the nats CLI's JSON.
func consumerFields() []field[jetstream.ConsumerConfig] {
	type cfg = jetstream.ConsumerConfig
	always := func(_, _ *cfg) bool { return true }
	return []field[cfg]{
		{name: "ack_policy", value: func(c *cfg) string { return c.AckPolicy.String() }, fixed: always},
		{name: "deliver_policy", value: func(c *cfg) string { return c.DeliverPolicy.String() }, fixed: always},
		{name: "opt_start_seq", value: func(c *cfg) string { return number(c.OptStartSeq) }, fixed: always},
		{name: "opt_start_time", value: func(c *cfg) string { return moment(c.OptStartTime) }, fixed: always},
		{name: "replay_policy", value: func(c *cfg) string { return c.ReplayPolicy.String() }, fixed: always},
		{name: "deliver_subject", value: func(c *cfg) string { return text(c.DeliverSubject) }, fixed: always},
		{name: "flow_control", value: func(c *cfg) string { return yesNo(c.FlowControl) }, fixed: always},
		{name: "idle_heartbeat", value: func(c *cfg) string { return age(c.IdleHeartbeat) }, fixed: always},
		{name: "filter_subjects", value: func(c *cfg) string { return list(consumerFilters(c)) }},
		{name: "ack_wait", value: func(c *cfg) string { return c.AckWait.String() }},
		{name: "max_deliver", value: func(c *cfg) string { return limit(c.MaxDeliver) }},
		{name: "backoff", value: func(c *cfg) string { return list(c.BackOff) }},
		{name: "max_ack_pending", value: func(c *cfg) string { return limit(c.MaxAckPending) }, tunable: true},
		{name: "headers_only", value: func(c *cfg) string { return yesNo(c.HeadersOnly) }},
		{name: "max_batch", value: func(c *cfg) string { return number(c.MaxRequestBatch) }},
		{name: "max_expires", value: func(c *cfg) string { return age(c.MaxRequestExpires) }},
		{name: "max_bytes", value: func(c *cfg) string { return number(c.MaxRequestMaxBytes) }},
		{name: "inactive_threshold", value: func(c *cfg) string { return age(c.InactiveThreshold) }},
		{name: "num_replicas", value: func(c *cfg) string { return number(c.Replicas) }},
		{name: "mem_storage", value: func(c *cfg) string { return yesNo(c.MemoryStorage) }, fixed: always},
		{name: "priority_policy", value: func(c *cfg) string { return policy(c.PriorityPolicy) }},
		{name: "priority_groups", value: func(c *cfg) string { return list(c.PriorityGroups) }},
		{name: "priority_timeout", value: func(c *cfg) string { return age(c.PinnedTTL) }, tunable: true},
	}
}

func consumerFilters(c *jetstream.ConsumerConfig) []string {
	if c.FilterSubject != "" {
		return append([]string{c.FilterSubject}, c.FilterSubjects...)
	}
	return c.FilterSubjects
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func number[N int | int32 | int64 | uint64](n N) string { return fmt.Sprint(n) }

// limit prints what JetStream takes as unlimited (-1, and 0 before the server has answered) as a word.
func limit[N int | int32 | int64](n N) string {
	if n <= 0 {
		return "unlimited"
	}
	return number(n)
}

func age(d time.Duration) string {
	if d == 0 {
		return "none"
	}
	return d.String()
}

func moment(t *time.Time) string {
	if t == nil {
		return "none"
	}
	return t.Format(time.RFC3339Nano)
}

func text(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// list prints the elements sorted: their order means nothing, except for backoff, which has to be empty.
func list[E any](elements []E) string {
	texts := make([]string, len(elements))
	for i, e := range elements {
		texts[i] = fmt.Sprint(e)
	}
	slices.Sort(texts)
	return text(strings.Join(texts, ", "))
}

func discard(d jetstream.DiscardPolicy) string {
	if d == jetstream.DiscardNew {
		return "new"
	}
	return "old"
}

func policy(p jetstream.PriorityPolicy) string {
	name, err := p.MarshalJSON()
	if err != nil {
		return fmt.Sprintf("unknown (%d)", p)
	}
	return text(strings.Trim(string(name), `"`))
}

func transformText(t *jetstream.SubjectTransformConfig) string {
	if t == nil {
		return "none"
	}
	return t.Source + " to " + t.Destination
}

func consumerLimits(l jetstream.StreamConsumerLimits) string {
	if l == (jetstream.StreamConsumerLimits{}) {
		return "none"
	}
	return fmt.Sprintf("inactive_threshold %s, max_ack_pending %d", l.InactiveThreshold, l.MaxAckPending)
}

func source(s *jetstream.StreamSource) string {
	if s == nil {
		return "none"
	}
	return s.Name
}

func sources(s []*jetstream.StreamSource) string {
	names := make([]string, len(s))
	for i, one := range s {
		names[i] = one.Name
	}
	return list(names)
}
