package kex

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"kexrelay/internal/fault"
	"kexrelay/internal/update"
)

// byReference is a request for a document that is read while it is being sent.
func byReference(data []byte, open func(ctx context.Context) (io.ReadCloser, error)) update.Request {
	c := &update.Content{
		Before: []byte(`{"filename":"a.pdf","base64Content":"`), After: []byte(`"}`),
		Object: update.Object{Size: int64(len(data)), Digest: sha256.Sum256(data)}, Open: open,
	}
	return update.Request{Vorgangsnummer: "123456", Kind: update.Document, TraceID: "kxr-1", Content: c}
}

// opening gives a reader each time, and counts those that are not closed.
func opening(open *atomic.Int32, reader func() io.Reader) func(context.Context) (io.ReadCloser, error) {
	return func(context.Context) (io.ReadCloser, error) {
		open.Add(1)
		return &closing{Reader: reader(), open: open}, nil
	}
}

type closing struct {
	io.Reader

	open *atomic.Int32
}

func (c *closing) Close() error {
	c.open.Add(-1)
	return nil
}

// allClosed waits until net/http has closed what it read from: with HTTP/2 that is after RoundTrip has returned.
func allClosed(t *testing.T, open *atomic.Int32) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); open.Load() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d readers are not closed", open.Load())
		}
	}
}

func someBytes(n int) []byte {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(i * 31 >> 3)
	}
	return data
}

// received is what a server was sent, and whether it was all.
type received struct {
	body   []byte
	length int64
	err    error
}

// apis serve over both protocols; what they were sent comes from the channel.
func apis(t *testing.T, answer http.HandlerFunc) map[string]struct {
	client *Client
	got    chan received
} {
	t.Helper()
	both := make(map[string]struct {
		client *Client
		got    chan received
	})
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2"} {
		got := make(chan received, 1)
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if r.Proto[:6] != protocol[:6] {
				t.Errorf("spoke %s, want %s", r.Proto, protocol)
			}
			got <- received{body, r.ContentLength, err}
			answer(w, r)
		}))
		srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
		srv.EnableHTTP2 = protocol == "HTTP/2"
		if srv.EnableHTTP2 {
			srv.StartTLS()
		} else {
			srv.Start()
		}
		t.Cleanup(srv.Close)
		c := newTestClient(t, srv.URL)
		if srv.EnableHTTP2 {
			trusting(t, c, srv)
		}
		both[protocol] = struct {
			client *Client
			got    chan received
		}{c, got}
	}
	return both
}

func created(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusCreated) }

func TestADocumentByReferenceIsSentAsIfItWereInline(t *testing.T) {
	for protocol, api := range apis(t, created) {
		for _, size := range []int{1, 2, 3, rawPart - 1, rawPart, rawPart + 1, 3*rawPart + 2} {
			for name, slow := range map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "error with data": iotest.DataErrReader} {
				t.Run(fmt.Sprintf("%s/%d/%s", protocol, size, name), func(t *testing.T) {
					var open atomic.Int32
					data := someBytes(size)
					r := byReference(data, opening(&open, func() io.Reader { return slow(bytes.NewReader(data)) }))
					if _, err := api.client.Send(t.Context(), r); err != nil {
						t.Fatal(err)
					}
					got := <-api.got
					want := `{"filename":"a.pdf","base64Content":"` + base64.StdEncoding.EncodeToString(data) + `"}`
					if string(got.body) != want || got.length != int64(len(want)) || got.err != nil {
						t.Errorf("got %d bytes, Content-Length %d, error %v, want %d bytes", len(got.body), got.length, got.err, len(want))
					}
					allClosed(t, &open)
				})
			}
		}
	}
}

// A damaged document never completes a request: so it cannot have been booked, and the failure is not unknown.
func TestADamagedDocumentNeverCompletesARequest(t *testing.T) {
	data := someBytes(3*rawPart + 2)
	flipped := bytes.Clone(data)
	flipped[len(flipped)-1] ^= 1
	missing := outcome{fault.Permanent, fault.ObjectMissing, false}
	away := &fault.Error{Kind: fault.Transient, Reason: fault.Storage, Detail: "away"}
	for protocol, api := range apis(t, created) {
		for name, tt := range map[string]struct {
			read func() io.Reader
			want outcome
		}{
			"another byte":  {func() io.Reader { return bytes.NewReader(flipped) }, missing},
			"one byte less": {func() io.Reader { return bytes.NewReader(data[1:]) }, missing},
			"one byte more": {func() io.Reader { return io.MultiReader(bytes.NewReader(data), strings.NewReader("x")) }, missing},
			"empty":         {func() io.Reader { return strings.NewReader("") }, missing},
			"read error at the beginning": {
				func() io.Reader { return iotest.ErrReader(away) }, outcome{fault.Transient, fault.Storage, false},
			},
			"read error in the middle": {
				func() io.Reader { return io.MultiReader(bytes.NewReader(data[:rawPart+1]), iotest.ErrReader(away)) },
				outcome{fault.Transient, fault.Storage, false},
			},
			"read error at the very end": {
				func() io.Reader { return io.MultiReader(bytes.NewReader(data), iotest.ErrReader(away)) },
				outcome{fault.Transient, fault.Storage, false},
			},
		} {
			t.Run(protocol+"/"+name, func(t *testing.T) {
				var open atomic.Int32
				_, err := api.client.Send(t.Context(), byReference(data, opening(&open, tt.read)))
				if got := outcomeOf(err); got != tt.want {
					t.Errorf("got %+v (%v), want %+v", got, err, tt.want)
				}
				select {
				case got := <-api.got:
					if got.err == nil {
						t.Errorf("the request was complete, with %d bytes", len(got.body))
					}
				case <-time.After(2 * time.Second): // HTTP/1 need not have sent anything.
				}
				allClosed(t, &open)
			})
		}
	}
}

func TestADocumentThatCannotBeOpenedIsItsOwnFault(t *testing.T) {
	for protocol, api := range apis(t, created) {
		_, err := api.client.Send(t.Context(), byReference(someBytes(5), func(context.Context) (io.ReadCloser, error) {
			return nil, damaged("gone")
		}))
		if got, want := outcomeOf(err), (outcome{fault.Permanent, fault.ObjectMissing, false}); got != want {
			t.Errorf("%s: got %+v (%v), want %+v", protocol, got, err, want)
		}
	}
}

// A document that does not come must not take longer than the request may, nor outlive our stop.
func TestReadingADocumentEndsWithTheRequest(t *testing.T) {
	stuck := func(ctx context.Context) (io.ReadCloser, error) {
		return io.NopCloser(readerFunc(func([]byte) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		})), nil
	}
	c := newTestClient(t, serve(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.ReadAll(r.Body) }).URL,
		func(cfg *Config) { cfg.RequestTimeout = 200 * time.Millisecond })
	_, err := c.Send(t.Context(), byReference(someBytes(5), stuck))
	if f := faultOf(t, err); f.Kind != fault.Transient || !strings.Contains(f.Detail, "KEX_REQUEST_TIMEOUT") {
		t.Errorf("got %+v", f)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err = c.Send(ctx, byReference(someBytes(5), stuck))
	if f := faultOf(t, err); f.Kind != fault.Interrupted || !errors.Is(err, context.Canceled) {
		t.Errorf("got %+v", f)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// What a refusal repeats of a document is taken out, although the document is not in memory.
func TestADocumentByReferenceDoesNotShowInAnErrorText(t *testing.T) {
	data := []byte(strings.Repeat("filler ", 5000) + canaryComment)
	echo := func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, "cannot parse %q (%s), page 7", canaryComment, base64.StdEncoding.EncodeToString(data)[len(data)-40:])
	}
	for protocol, api := range apis(t, echo) {
		for name, open := range map[string]func(context.Context) (io.ReadCloser, error){
			"read again": func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
			"gone since": onlyOnce(data),
		} {
			_, err := api.client.Send(t.Context(), byReference(data, open))
			<-api.got
			f := faultOf(t, err)
			if f.Reason != fault.BadRequest || strings.Contains(f.Detail, "Quittenbaum") || strings.Contains(f.Detail, "Zwiebel") {
				t.Errorf("%s, %s: got %+v", protocol, name, f)
			}
			if says := strings.Contains(f.Detail, "cannot parse"); says != (name == "read again") {
				t.Errorf("%s, %s: detail %q", protocol, name, f.Detail)
			}
		}
	}
}

func onlyOnce(data []byte) func(context.Context) (io.ReadCloser, error) {
	var n atomic.Int32
	return func(context.Context) (io.ReadCloser, error) {
		if n.Add(1) > 1 {
			return nil, damaged("gone")
		}
		return io.NopCloser(bytes.NewReader(data)), nil
	}
}
