package telemetry

import (
	"slices"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

// other is the label of whatever is not in a label's set: a new series per unknown text would let a publisher
// fill the memory.
const other = "other"

// noReason is the reason of what has none: a delivered update.
const noReason = "none"

// Class says how an attempt was answered. It is a closed set.
type Class string

// The classes of attempts.
const (
	ClassDelivered    Class = "2xx"
	ClassRedirected   Class = "3xx"
	ClassRefused      Class = "4xx"         // Without 401 and 429.
	ClassUnauthorized Class = "401"         // With the status or from the token endpoint.
	ClassThrottled    Class = "throttled"   // 429, or 503 with Retry-After.
	ClassServerError  Class = "5xx"         // Without a throttling 503.
	ClassNoAnswer     Class = "error"       // Connection, DNS, TLS, timeout: no status came.
	ClassInterrupted  Class = "interrupted" // The process's own stop ended it.
	ClassAborted      Class = "aborted"     // The relay broke it off: its document is missing or damaged.
	classOther        Class = Class(other)  // Whatever is none of these.
)

// Classes lists every class of attempts.
func Classes() []Class {
	return []Class{
		ClassDelivered, ClassRedirected, ClassRefused, ClassUnauthorized, ClassThrottled, ClassServerError,
		ClassNoAnswer, ClassInterrupted, ClassAborted,
	}
}

// ClassOf is the class of an attempt that ended with err: nil is a delivery, anything else is classified as
// fault.Of sees it. The status is used for counting alone.
func ClassOf(err error) Class {
	f := fault.Of(err)
	switch {
	case f == nil:
		return ClassDelivered
	case f.Kind == fault.Interrupted:
		return ClassInterrupted
	case f.Kind == fault.Throttled:
		return ClassThrottled
	case f.Reason == fault.Unauthorized:
		return ClassUnauthorized
	case f.Status >= 500 && f.Status <= 599:
		return ClassServerError
	case f.Status >= 400 && f.Status <= 499:
		return ClassRefused
	case f.Status >= 300 && f.Status <= 399:
		return ClassRedirected
	case f.Status != 0:
		return classOther
	case f.Reason == fault.Invalid, f.Reason == fault.ObjectMissing:
		return ClassAborted
	}
	return ClassNoAnswer
}

// TokenOutcome is how a fetch of an access token ended. It is a closed set.
type TokenOutcome string

// The outcomes of token fetches.
const (
	TokenFetched      TokenOutcome = "fetched"
	TokenUnauthorized TokenOutcome = "unauthorized" // The endpoint refused the client: 400 or 401.
	TokenFailed       TokenOutcome = "failed"       // 429, 5xx, network, an answer that is none.
)

// TokenOutcomes lists every outcome of token fetches.
func TokenOutcomes() []TokenOutcome {
	return []TokenOutcome{TokenFetched, TokenUnauthorized, TokenFailed}
}

// Record is what was to be published when it had to be tried again. It is a closed set.
type Record string

// The records.
const (
	RecordResult     Record = "result"
	RecordDeadLetter Record = "deadletter"
)

// Records lists every record.
func Records() []Record { return []Record{RecordResult, RecordDeadLetter} }

// NATSError is an error the NATS client reports beside any call. It is a closed set.
type NATSError string

// The errors of the NATS client.
const (
	NATSSlowConsumer NATSError = "slow_consumer" // Messages were dropped in the client.
	NATSPermission   NATSError = "permission"    // The server refused a subject.
	NATSDisconnected NATSError = "disconnected"  // The connection was lost.
	NATSSilent       NATSError = "silent"        // A server was left because JetStream did not answer through it.
)

// NATSErrors lists every error of the NATS client.
func NATSErrors() []NATSError {
	return []NATSError{NATSSlowConsumer, NATSPermission, NATSDisconnected, NATSSilent}
}

// Credential is a file that proves who somebody is and expires. It is a closed set.
type Credential string

// The credentials.
const (
	CredentialNATSCreds Credential = "nats_creds" //nolint:gosec // A label.
	CredentialNATSCert  Credential = "nats_cert"  //nolint:gosec // A label.
	CredentialNATSCA    Credential = "nats_ca"
	CredentialKEXCA     Credential = "kex_ca"
)

// Credentials lists every credential.
func Credentials() []Credential {
	return []Credential{CredentialNATSCreds, CredentialNATSCert, CredentialNATSCA, CredentialKEXCA}
}

// label is v if it is in its set, else what stands for the rest.
func label[T ~string](v T, set []T, rest string) string {
	if slices.Contains(set, v) {
		return string(v)
	}
	return rest
}

func kindLabel(kind update.Kind) string { return label(kind, update.Kinds(), string(update.Invalid)) }

// kinds are all labels of kinds.
func kinds() []update.Kind { return append(update.Kinds(), update.Invalid) }

// settledReason is the label of an outcome's reason: only dead letters have one.
func settledReason(outcome update.Outcome, reason fault.Reason) string {
	if outcome != update.DeadLettered {
		return noReason
	}
	return label(reason, fault.DeadLetterReasons(), other)
}
