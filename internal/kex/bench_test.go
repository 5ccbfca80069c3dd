package kex

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"kexrelay/internal/update"
)

// BenchmarkSend is one booked request against a server in the same process, so the server's time counts too; the
// allocations of "bare server" are the client's alone.
func BenchmarkSend(b *testing.B) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusCreated)
	})
	document := update.Request{
		Vorgangsnummer: "123456", Kind: update.Document, TraceID: "kxr-1",
		Body: []byte(`{"filename": "a.pdf", "base64Content": "` + strings.Repeat("QUJD", 1<<18) + `"}`),
	}
	comment := commentsRequest(strings.Repeat("Testkommentar ", 14))
	run := func(b *testing.B, c *Client, r update.Request) {
		b.Helper()
		b.ReportAllocs()
		b.SetBytes(int64(len(r.Body)))
		for b.Loop() {
			if _, err := c.Send(b.Context(), r); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("comment/bare server", func(b *testing.B) {
		run(b, newTestClient(b, serveRaw(b, bareServer)), comment)
	})
	b.Run("comment", func(b *testing.B) {
		srv := httptest.NewServer(handler)
		b.Cleanup(srv.Close)
		run(b, newTestClient(b, srv.URL), comment)
	})
	b.Run("comment/parallel", func(b *testing.B) {
		srv := httptest.NewServer(handler)
		b.Cleanup(srv.Close)
		c := newTestClient(b, srv.URL)
		b.ReportAllocs()
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := c.Send(b.Context(), comment); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
	b.Run("document 1 MB", func(b *testing.B) {
		srv := httptest.NewServer(handler)
		b.Cleanup(srv.Close)
		run(b, newTestClient(b, srv.URL), document)
	})
	for name, h2 := range map[string]bool{"TLS": false, "HTTP2": true} {
		b.Run("comment/"+name, func(b *testing.B) {
			srv := httptest.NewUnstartedServer(handler)
			srv.EnableHTTP2 = h2
			srv.StartTLS()
			b.Cleanup(srv.Close)
			c := newTestClient(b, srv.URL)
			trusting(b, c, srv)
			run(b, c, comment)
		})
	}
}

// bareServer answers with next to no allocation.
func bareServer(conn net.Conn) {
	r := bufio.NewReader(conn)
	for {
		length := 0
		for {
			line, err := r.ReadSlice('\n')
			if err != nil {
				return
			}
			if len(line) == 2 {
				break
			}
			if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
				length, _ = strconv.Atoi(string(bytes.TrimSpace(value)))
			}
		}
		if _, err := r.Discard(length); err != nil {
			return
		}
		if _, err := io.WriteString(conn, "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"); err != nil {
			return
		}
	}
}

// BenchmarkScrub is the price of an error's detail, paid only for failures.
func BenchmarkScrub(b *testing.B) {
	answer := clean([]byte(`{"timestamp":"2024-11-22T15:06:07.123+01:00","status":400,"error":"Bad Request",` +
		`"message":"Die Datei konnte nicht verarbeitet werden","path":"/kreditsmart/kex/vorgang/123456/dokument"}`))
	noise := make([]byte, 3<<20)
	for i := range noise {
		noise[i] = byte(i * i >> 7)
	}
	for name, body := range map[string][]byte{
		"comment":       []byte(`["Frau Quittenbaum verdient 4711 Euro"]`),
		"document 4 MB": []byte(`{"filename":"a.pdf","base64Content":"` + base64.StdEncoding.EncodeToString(noise) + `"}`),
	} {
		for answerName, text := range map[string]string{"short": answer, "2 KiB": strings.Repeat(answer, 9)} {
			b.Run(name+"/"+answerName+" answer", func(b *testing.B) {
				b.ReportAllocs()
				s := &scrubber{secrets: []string{canarySecret, canaryToken}, body: body}
				for b.Loop() {
					s.scrub(text)
				}
			})
		}
	}
}
