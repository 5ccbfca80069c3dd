package update

import "strconv"

// generatedIDPrefix begins the ID of an update whose publisher gave none: the stream's name, then its sequence.
const generatedIDPrefix = "KEX_UPDATES-"

// Decode makes an update of a message and checks everything that can be checked without a call: subject, headers,
// body. The update is always usable, so that a message that can never be booked still gets its dead letter and
// its result under an identity and a trace ID; what is not valid in it is replaced as the fields of [Update] say.
//
// The error is nil or a permanent [fault.Error] with reason invalid. Its detail names the field and the problem
// (byte offsets count from 0) in at most about 150 bytes of printable ASCII, and never repeats what the publisher
// wrote. Headers alone never make an update invalid: a bad one is dropped or replaced, and told in
// Update.Note or Update.PublisherTraceID.
//
// newTraceID makes a trace ID for an update that has none; it is not called otherwise. Body and Header of the
// update are the message's own, not copies: nobody may change them. On a replay (m.Replay) the update's ID and
// trace ID are those of the claim, if they can be used; what a publisher writes into Kex-* headers is never read.
func Decode(m Message, newTraceID func() string) (*Update, error) {
	u, err := Envelope(m, newTraceID)
	if err != nil {
		return u, err
	}
	switch u.Kind {
	case Document:
		u.Object, err = checkDocument(m.Body)
	case Comments:
		err = checkComments(m.Body)
	case Invalid: // ParseSubject has given the error.
	}
	return u, err
}

// Envelope is Decode without a look at the body: for an update whose body may be what killed a process. The error
// is about the subject alone.
func Envelope(m Message, newTraceID func() string) (*Update, error) {
	u := &Update{
		Seq:      m.Seq,
		StoredAt: m.StoredAt,
		Subject:  m.Subject,
		Header:   m.Header,
		Body:     m.Body,
		Replay:   m.Replay,
	}
	var err error
	u.Vorgangsnummer, u.Kind, err = ParseSubject(m.Subject)
	u.identify(readHeaders(m.Header), newTraceID)
	return u, err
}

// identify fills ID, trace ID, trace context and note.
func (u *Update) identify(h headers, newTraceID func() string) {
	u.Traceparent, u.Tracestate = traceContext(h)
	if u.Replay != nil {
		u.ID = u.Replay.UpdateID
		u.TraceID, u.PublisherTraceID = usableTraceID(u.Replay.TraceID)
	} else {
		u.ID, u.Note = publisherID(h)
		u.TraceID, u.PublisherTraceID = publisherTraceID(h)
	}
	if u.ID == "" {
		u.ID = generatedIDPrefix + strconv.FormatUint(u.Seq, 10)
	}
	if u.TraceID == "" {
		u.TraceID = newTraceID()
	}
}
