package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"kexrelay/internal/topology"
)

// publishObjects stores each document of the load in the bucket and publishes an update that names it.
func (s *benchSystem) publishObjects(ctx context.Context, prefix string, l benchLoad) {
	s.tb.Helper()
	content := l.file()
	digest := sha256.Sum256(content)
	for i, name := range s.putObjects(ctx, content, l.updates) {
		body := fmt.Sprintf(`{"filename":"Grundbuch.pdf","object":{"bucket":"%s","name":"%s","size":%d,"digest":"SHA-256=%s"}}`,
			topology.BucketDocuments, name, len(content), base64.URLEncoding.EncodeToString(digest[:]))
		_, err := s.js.Publish(ctx, l.subject(prefix, i), []byte(body))
		s.must(err)
	}
}

func (s *benchSystem) putObjects(ctx context.Context, content []byte, n int) []string {
	s.tb.Helper()
	bucket, err := s.js.ObjectStore(ctx, topology.BucketDocuments)
	s.must(err)
	names := make([]string, n)
	for i := range names {
		names[i] = uuid.NewString()
		_, err := bucket.Put(ctx, jetstream.ObjectMeta{Name: names[i]}, bytes.NewReader(content))
		s.must(err)
	}
	return names
}

// bareObjects is the rate of fetching the chunks of objects, in their order, and nothing else.
func (s *benchSystem) bareObjects(k benchCase) float64 {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(s.tb.Context(), 2*time.Minute)
	defer cancel()
	names := s.putObjects(ctx, k.load.file(), k.load.updates)
	bucket, err := s.js.ObjectStore(ctx, topology.BucketDocuments)
	s.must(err)
	var next atomic.Int64
	var work sync.WaitGroup
	watch := s.watch()
	for range k.InFlight {
		work.Go(func() {
			for i := next.Add(1); i <= int64(len(names)); i = next.Add(1) {
				if err := s.fetchChunks(ctx, bucket, names[i-1]); err != nil {
					s.tb.Error(err)
				}
			}
		})
	}
	work.Wait()
	rate := watch.rate(len(names))
	for _, name := range names {
		s.must(bucket.Delete(ctx, name))
	}
	return rate
}

func (s *benchSystem) fetchChunks(ctx context.Context, bucket jetstream.ObjectStore, name string) error {
	info, err := bucket.GetInfo(ctx, name)
	if err != nil {
		return err
	}
	consumer, err := s.js.CreateConsumer(ctx, "OBJ_"+topology.BucketDocuments, jetstream.ConsumerConfig{
		FilterSubject: "$O." + topology.BucketDocuments + ".C." + info.NUID, AckPolicy: jetstream.AckNonePolicy,
		MemoryStorage: true, InactiveThreshold: 10 * time.Second,
	})
	if err != nil {
		return err
	}
	left := int(info.Chunks)
	done := make(chan struct{})
	consuming, err := consumer.Consume(func(jetstream.Msg) {
		if left--; left == 0 {
			close(done)
		}
	}, jetstream.PullMaxBytes(4<<20))
	if err != nil {
		return err
	}
	defer consuming.Stop()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
