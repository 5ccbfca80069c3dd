package deadletter

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/journal"
	"kexrelay/internal/topology"
)

// streamDocuments is the bucket as the stream it is: what the object store has no call for.
const streamDocuments = "OBJ_" + topology.BucketDocuments

// objectsOf names the objects of a dead letter, or of an update with a zero letter, as <bucket>/<name>: the one that
// holds its body and the document that its body refers to. A name that is none of ours is left away: it is a
// publisher's text.
func objectsOf(letter Summary, body []byte) []string {
	var objects []string
	if letter.BodyObject != "" {
		objects = append(objects, letter.BodyObject)
	}
	var reference struct {
		Object *struct {
			Bucket string `json:"bucket"`
			Name   string `json:"name"`
		} `json:"object"`
	}
	if json.Unmarshal(body, &reference) != nil || reference.Object == nil {
		return objects
	}
	if of := reference.Object; of.Bucket == topology.BucketDocuments && uuid.Validate(of.Name) == nil {
		objects = append(objects, of.Bucket+"/"+of.Name)
	}
	return objects
}

// eraseObject overwrites an object's bytes and what is said about it. The object store's own removal leaves both on the
// disk, and the publisher's headers in a mark of the removal. It reports whether there was anything.
func (s *Store) eraseObject(ctx context.Context, object string) (bool, error) {
	name := object[len(topology.BucketDocuments)+1:]
	about := "$O." + topology.BucketDocuments + ".M." + base64.URLEncoding.EncodeToString([]byte(name))
	msg, err := s.message(ctx, streamDocuments, 1, jetstream.WithGetMsgSubject(about))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var info jetstream.ObjectInfo
	if err := json.Unmarshal(msg.Data, &info); err == nil && info.NUID != "" {
		chunks := journal.Scan{
			Stream: streamDocuments, Filters: []string{"$O." + topology.BucketDocuments + ".C." + info.NUID}, HeadersOnly: true,
		}
		for chunk, err := range chunks.Messages(ctx, s.js) {
			if err != nil {
				return false, err
			}
			meta, err := chunk.Metadata()
			if err != nil {
				return false, err
			}
			if _, err := s.overwrite(ctx, streamDocuments, meta.Sequence.Stream); err != nil {
				return false, err
			}
		}
	}
	_, err = s.overwrite(ctx, streamDocuments, msg.Sequence)
	return true, err
}

// overwrite removes a message and its bytes from the server's files, and reports whether it was there.
func (s *Store) overwrite(ctx context.Context, name string, seq uint64) (there bool, err error) {
	call, cancel := topology.Call(ctx, callTimeout)
	defer cancel()
	stream, err := s.stream(call, name)
	if err != nil {
		return false, err
	}
	err = stream.SecureDeleteMsg(call, seq)
	if err == nil {
		return true, nil
	}
	if _, gone := s.message(ctx, name, seq); errors.Is(gone, jetstream.ErrMsgNotFound) {
		return false, nil
	}
	return false, journal.Explain(fmt.Sprintf("erasing message %d of %s", seq, name), s.js, err)
}
