// Package topology is where everything lies in NATS: the names of streams, subjects, consumers, buckets and
// headers, and the setup that creates or verifies them.
//
// An update meets it at every station: it is stored under [StoredSubject], its result goes to [ResultSubject],
// its dead letter to [DeadLetterSubject]. The names of the published side are update's.
package topology

import (
	"strconv"
	"strings"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

// Streams and buckets.
const (
	StreamUpdates     = "KEX_UPDATES"
	StreamResults     = "KEX_RESULTS"
	StreamDeadLetters = "KEX_DEADLETTERS"
	StreamAudit       = "KEX_AUDIT"
	BucketDocuments   = "KEX_DOCUMENTS" // Object store.
	BucketLedger      = "KEX_LEDGER"    // Key-value: what is being sent.
	BucketControl     = "KEX_CONTROL"   // Key-value: leases, holds, replay claims.
)

// Keys of BucketControl.
const (
	LeasePrefix = "lease." // And the partition: who may send its updates.
	HoldPrefix  = "hold."  // And the reason: why nobody sends.
)

// PriorityGroup is the pinned-client group of every relay consumer.
const PriorityGroup = "relay"

// Subject spaces.
const (
	storedPrefix          = "kex.update."
	SubjectResults        = "kex.result.>"
	SubjectDeadLetters    = "kex.deadletter.>"
	SubjectAudit          = "kex.audit.>"
	resultPrefix          = "kex.result."
	deadLetterPrefix      = "kex.deadletter."
	auditPrefix           = "kex.audit."
	replicaPrefix         = "kex.replica."
	publishedTransformSrc = "kex.vorgang.*.*"
	publishedAll          = "kex.vorgang.>"
	consumerPrefix        = "relay-"
)

// Headers on results and dead letters.
const (
	HeaderOutcome        = "Kex-Outcome"
	HeaderUpdateID       = update.HeaderUpdateID
	HeaderUpdateSeq      = "Kex-Update-Seq"
	HeaderUpdateAt       = "Kex-Update-At"      // When NATS stored the update, RFC 3339 with nanoseconds.
	HeaderUpdateSubject  = "Kex-Update-Subject" // As published, at most 256 bytes.
	HeaderReason         = "Kex-Reason"
	HeaderStatus         = "Kex-Status"
	HeaderDetail         = "Kex-Detail"
	HeaderAttempts       = "Kex-Attempts"
	HeaderRequestID      = "Kex-Request-Id"
	HeaderFirstAttemptAt = "Kex-First-Attempt-At"
	HeaderAnswers        = "Kex-Answers" // As update.Answers writes them, if more than one request was made.
	HeaderDeadLetteredAt = "Kex-Dead-Lettered-At"
	HeaderReplays        = update.HeaderReplays
	HeaderReplayOf       = update.HeaderReplayOf
	HeaderMayBeBooked    = "Kex-May-Be-Booked" // "true" if a request was sent and nobody knows what became of it.
	HeaderBodyObject     = "Kex-Body-Object"   // <bucket>/<name> of the original body.
	HeaderBodySize       = "Kex-Body-Size"     // Bytes.
	HeaderBodyDigest     = "Kex-Body-Digest"   // SHA-256=<base64url>.
)

// Consumer is the durable consumer of a partition.
func Consumer(partition int) string { return consumerPrefix + strconv.Itoa(partition) }

// StoredSubject is the subject the stream's transform stores an update under.
func StoredSubject(partition int, vorgangsnummer string, kind update.Kind) string {
	return storedPrefix + strconv.Itoa(partition) + "." + vorgangsnummer + "." + string(kind)
}

// StoredSubjects is the filter for a Vorgang's updates of a kind in whatever partition they are stored.
func StoredSubjects(vorgangsnummer string, kind update.Kind) string {
	return storedPrefix + "*." + vorgangsnummer + "." + string(kind)
}

// PublishedSubject rebuilds the subject an update was published to from the one it is stored under. A subject
// the transform did not match was stored as it came and is returned unchanged.
func PublishedSubject(stored string) string {
	rest, ok := strings.CutPrefix(stored, storedPrefix)
	if !ok {
		return stored
	}
	_, rest, ok = strings.Cut(rest, ".")
	if !ok {
		return stored
	}
	return update.SubjectPrefix + rest
}

// ResultSubject is where the result event of an outcome goes. vorgangsnummer and kind are validated ones, as
// update.Decode gives them.
func ResultSubject(outcome update.Outcome, vorgangsnummer string, kind update.Kind) string {
	return resultPrefix + string(outcome) + "." + vorgangsnummer + "." + string(kind)
}

// DeadLetterSubject is where a dead letter goes. vorgangsnummer and kind are validated ones.
func DeadLetterSubject(reason fault.Reason, vorgangsnummer string, kind update.Kind) string {
	return deadLetterPrefix + string(reason) + "." + vorgangsnummer + "." + string(kind)
}

// CancelSubject is where the replica with the right to send an update is asked to take it back. process is the replica's, as
// in its lease.
func CancelSubject(process string) string { return replicaPrefix + "cancel." + process }

// StandingSubject is where that replica is asked how an update stands.
func StandingSubject(process string) string { return replicaPrefix + "update." + process }

// AuditSubject is where the audit event of an action goes.
func AuditSubject(action string) string { return auditPrefix + action }
