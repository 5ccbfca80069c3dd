package journal

import (
	"context"
	"errors"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
	"kexrelay/internal/update"
)

// OrphanAge is how old an object that nothing names must be before it may go: far above any time between storing a
// document and publishing its update.
const OrphanAge = 24 * time.Hour

// Sweeper removes objects of KEX_DOCUMENTS that nothing needs any more: documents whose publisher died between storing
// and publishing, or whose removal after the delivery was lost, and chunks of uploads that were never finished. Use
// NewSweeper; one per bucket should run, and two do no harm.
type Sweeper struct {
	documents *Documents
	age       time.Duration
	// suspects are the objects that nothing named last time, by their own chunks' ID.
	suspects map[string]bool
}

// NewSweeper makes a Sweeper without a call.
func NewSweeper(js jetstream.JetStream) *Sweeper {
	return &Sweeper{documents: NewDocuments(js), age: OrphanAge}
}

// Sweep looks once and removes what nothing named this time and the time before; call it every few minutes. Waiting
// updates cannot be searched (a WorkQueue stream has no second reader), so it does nothing while a document waits: there
// are such moments in every day that has no outage, and an orphan costs nothing but room. A replay on its way from
// the dead letters to the updates can be missed by one look, but hardly by two.
//
// It returns how many objects, or unfinished uploads, it removed. Ages are told by the server's clock alone.
func (s *Sweeper) Sweep(ctx context.Context) (removed int, err error) {
	bucket, err := s.documents.open(ctx)
	if err != nil {
		return 0, err
	}
	old, err := s.old(ctx, bucket)
	if err != nil {
		return 0, err
	}
	if len(old) > 0 { // Else the streams need not be looked at.
		if err := s.withoutNamed(ctx, old); err != nil {
			return 0, err
		}
	}
	suspects := make(map[string]bool, len(old))
	for id, o := range old {
		suspects[id] = true
		if !s.suspects[id] {
			continue
		}
		if err := s.remove(ctx, bucket, id, o); err != nil {
			return removed, err
		}
		delete(suspects, id)
		removed++
	}
	s.suspects = suspects
	return removed, nil
}

// withoutNamed leaves those that nothing names: none while documents wait, before the dead letters are read or after.
func (s *Sweeper) withoutNamed(ctx context.Context, old map[string]oldObject) error {
	before, err := s.documentsWait(ctx)
	if err != nil {
		return err
	}
	named, err := s.named(ctx)
	if err != nil {
		return err
	}
	after, err := s.documentsWait(ctx)
	if err != nil {
		return err
	}
	maps.DeleteFunc(old, func(_ string, o oldObject) bool { return before || after || named[o.name] })
	return nil
}

// documentsWait reports whether there are updates that may name objects.
func (s *Sweeper) documentsWait(ctx context.Context) (bool, error) {
	ctx, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	stream, err := s.documents.js.Stream(ctx, topology.StreamUpdates)
	if err != nil {
		return false, Explain("looking for waiting documents", s.documents.js, err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter("kex.update.*.*."+string(update.Document)))
	if err != nil {
		return false, Explain("looking for waiting documents", s.documents.js, err)
	}
	return len(info.State.Subjects) > 0, nil
}

// oldObject is an object, or, without a name, the chunks of one that was never finished.
type oldObject struct{ name string }

// old finds what is older than OrphanAge, by the ID of its chunks.
func (s *Sweeper) old(ctx context.Context, bucket jetstream.ObjectStore) (map[string]oldObject, error) {
	call, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	stream, err := s.documents.js.Stream(call, documentsStream)
	if err != nil {
		return nil, Explain("opening the object bucket "+topology.BucketDocuments, s.documents.js, err)
	}
	const chunks = "$O." + topology.BucketDocuments + ".C."
	info, err := stream.Info(call, jetstream.WithSubjectFilter(chunks+"*"))
	if err != nil {
		return nil, Explain("listing the chunks in "+topology.BucketDocuments, s.documents.js, err)
	}
	before := info.TimeStamp.Add(-s.age)
	found := make(map[string]oldObject)
	objects, err := bucket.List(ctx)
	if err != nil && !errors.Is(err, jetstream.ErrNoObjectsFound) {
		return nil, Explain("listing the objects in "+topology.BucketDocuments, s.documents.js, err)
	}
	whole := make(map[string]bool, len(objects))
	for _, o := range objects {
		whole[o.NUID] = true
		if o.ModTime.Before(before) {
			found[o.NUID] = oldObject{name: o.Name}
		}
	}
	for subject := range info.State.Subjects {
		id := strings.TrimPrefix(subject, chunks)
		if whole[id] {
			continue
		}
		last, err := stream.GetLastMsgForSubject(ctx, subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return nil, Explain("reading a chunk in "+topology.BucketDocuments, s.documents.js, err)
		}
		if last.Time.Before(before) {
			found[id] = oldObject{}
		}
	}
	return found, nil
}

// named collects the objects that dead letters name: as the body of the dead letter, and in it.
func (s *Sweeper) named(ctx context.Context) (map[string]bool, error) {
	js := s.documents.js
	stream, err := js.Stream(ctx, topology.StreamDeadLetters)
	if err != nil {
		return nil, Explain("opening "+topology.StreamDeadLetters, js, err)
	}
	named := make(map[string]bool)
	// The bodies of documents are large, those of references are not: only small ones are read.
	for msg, err := range (Scan{Stream: topology.StreamDeadLetters, HeadersOnly: true}).Messages(ctx, js) {
		if err != nil {
			return nil, err
		}
		if object, ok := strings.CutPrefix(msg.Headers().Get(topology.HeaderBodyObject), topology.BucketDocuments+"/"); ok {
			named[object] = true
		}
		size, err := strconv.Atoi(msg.Headers().Get(nats.MsgSize))
		if err != nil || size > update.MaxReferenceLength || !strings.HasSuffix(msg.Subject(), "."+string(update.Document)) {
			continue
		}
		meta, err := msg.Metadata()
		if err != nil {
			return nil, err
		}
		whole, err := stream.GetMsg(ctx, meta.Sequence.Stream)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			return nil, Explain("reading "+topology.StreamDeadLetters, js, err)
		}
		if o := update.ObjectOf(whole.Data); o != nil {
			named[o.Name] = true
		}
	}
	return named, nil
}

func (s *Sweeper) remove(ctx context.Context, bucket jetstream.ObjectStore, id string, o oldObject) error {
	if o.name == "" {
		stream, err := s.documents.js.Stream(ctx, documentsStream)
		if err != nil {
			return Explain("opening the object bucket "+topology.BucketDocuments, s.documents.js, err)
		}
		err = stream.Purge(ctx, jetstream.WithPurgeSubject("$O."+topology.BucketDocuments+".C."+id))
		return Explain("removing an unfinished upload", s.documents.js, err)
	}
	if err := bucket.Delete(ctx, o.name); err != nil && !errors.Is(err, jetstream.ErrObjectNotFound) {
		return Explain("removing object "+o.name, s.documents.js, err)
	}
	return nil
}
