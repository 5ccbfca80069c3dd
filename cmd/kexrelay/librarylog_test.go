package main

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"kexrelay/internal/kex"
	"kexrelay/internal/update"
)

// An API that answers twice, and repeats in the second answer what it was sent, is told of without a word of it:
// net/http would quote it.
func TestASecondAnswerIsNotRepeatedInTheLog(t *testing.T) {
	var out lockedBuffer
	takeLibraryLog(slog.New(slog.NewTextHandler(&out, nil)))
	t.Cleanup(func() { takeLibraryLog(slog.New(slog.DiscardHandler)) })

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { answerTwice(conn) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	base := "http://" + l.Addr().String()
	client, err := kex.New(kex.Config{
		BaseURL: base, TokenURL: base + "/token", ClientID: "me", ClientSecret: func() (string, error) { return "c4nary-secret", nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	if err := client.Authorize(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Send(t.Context(), update.Request{
		Vorgangsnummer: "1", Kind: update.Comments, TraceID: "t", Body: []byte(`["c4nary-comment"]`),
	}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(scriptTimeout); strings.Count(out.String(), "Unsolicited response") < 2; {
		if time.Now().After(deadline) {
			t.Fatalf("the log does not tell of it:\n%s", out.String())
		}
		<-time.After(10 * time.Millisecond)
	}
	if said := out.String(); strings.Contains(said, "c4nary") || strings.Contains(said, "Bearer") || strings.Contains(said, "Basic") {
		t.Errorf("the log repeats what was sent:\n%s", said)
	}
}

// answerTwice answers requests as both endpoints do, each with a second answer behind the first that repeats it.
func answerTwice(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	r := bufio.NewReader(conn)
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		const token = `{"access_token":"c4nary-token","expires_in":3600}`
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"+
			"HTTP/1.1 400 No\r\n\r\n%s %s %s", len(token), token, token, req.Header.Get("Authorization"), body)
	}
}
