package journal

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"kexrelay/internal/update"
)

func TestARecordIsReadAsItWasWritten(t *testing.T) {
	tests := map[string]struct {
		attempt update.Attempt
		state   state
		carried bool
		line    string
	}{
		"sending": {
			update.Attempt{Seq: 12345, StoredAt: storedAt, Attempts: 1, Timeout: 30 * time.Second, RequestID: "sys12345678"},
			stateSending, false, "s 12345 1795356306123456789 1 0 0 30000 sys12345678\n",
		},
		"idle": {
			update.Attempt{Seq: 1, StoredAt: storedAt, Attempts: 4, Unknowns: 1, Crashes: 2, RequestID: "sys-4"},
			stateIdle, false, "i 1 1795356306123456789 4 1 2 0 sys-4\n",
		},
		"carried": {
			update.Attempt{Seq: math.MaxUint64, StoredAt: time.Unix(0, -1)},
			stateReopening, true, "R 18446744073709551615 -1 0 0 0 0 \n",
		},
		"half a millisecond": {
			update.Attempt{Seq: 1, StoredAt: time.Unix(0, 0), Timeout: time.Second + time.Nanosecond},
			stateOpening, false, "o 1 0 0 0 0 1001 \n",
		},
		"request ID with spaces": {
			update.Attempt{Seq: 1, StoredAt: time.Unix(0, 0), RequestID: " two  words "},
			stateSending, false, "s 1 0 0 0 0 0  two  words \n",
		},
		"request ID that would end the line": {
			update.Attempt{Seq: 1, StoredAt: time.Unix(0, 0), RequestID: "a\ns 2 0\x00ä"},
			stateSending, false, "s 1 0 0 0 0 0 a?s 2 0??\n",
		},
		"request ID without end": {
			update.Attempt{Seq: 1, StoredAt: time.Unix(0, 0), RequestID: strings.Repeat("x", 1000)},
			stateSending, false, "s 1 0 0 0 0 0 " + strings.Repeat("x", 255) + "\n",
		},
		"counts out of range": {
			update.Attempt{Seq: 1, StoredAt: time.Unix(0, 0), Attempts: -1, Unknowns: math.MaxInt, Timeout: -time.Second},
			stateSending, false, "s 1 0 0 2147483647 0 0 \n",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := recordOf(test.attempt, test.state)
			r.carried = test.carried
			batch := ledgerBatch{process: "9f86d081884c7d65", number: 4711, records: []record{r}}
			data := batch.encode()
			if want := "kexrelay-ledger/1 9f86d081884c7d65 4711\n" + test.line; string(data) != want {
				t.Errorf("encoded as %q, want %q", data, want)
			}
			got, err := decodeBatch(data)
			if err != nil || !reflect.DeepEqual(got, batch) {
				t.Errorf("decoded as %+v, %v, want %+v", got, err, batch)
			}
			if size := len(r.append(nil)); size > r.size() {
				t.Errorf("it takes %d bytes, more than the %d it says", size, r.size())
			}
		})
	}
}

func TestOtherMessagesAreNoBatch(t *testing.T) {
	const head = "kexrelay-ledger/1 p 1\n"
	tests := map[string]error{
		"":                                     errNoLedger,
		"idle":                                 errNoLedger,
		"kexrelay-ledger/1 p 1":                errNoLedger, // Without its line's end it was cut.
		"kexrelay-ledger/2\n":                  errLedgerVersion,
		"kexrelay-ledger/2 p 1 more\ns 1\n":    errLedgerVersion,
		"kexrelay-ledger/0 p 1\n":              errNoLedger,
		"kexrelay-ledger/x p 1\n":              errNoLedger,
		"kexrelay-ledger/1 p\n":                errNoLedger,
		"kexrelay-ledger/1  1\n":               errNoLedger,
		"kexrelay-ledger/1 p -1\n":             errNoLedger,
		"kexrelay-ledger/1 p 01\n":             errNoLedger,
		head + "\n":                            errNoLedger,
		head + "s 1 0 0 0 0 0 x":               errNoLedger,
		head + "s 1 0 0 0 0 0\n":               errNoLedger,
		head + "x 1 0 0 0 0 0 \n":              errNoLedger,
		head + "s -1 0 0 0 0 0 \n":             errNoLedger,
		head + "s +1 0 0 0 0 0 \n":             errNoLedger,
		head + "s 1 0 -1 0 0 0 \n":             errNoLedger,
		head + "s 1 0 0 9999999999 0 0 \n":     errNoLedger,
		head + "s 1 0 0 0 0 0 a\tb\n":          errNoLedger,
		head + "ss 1 0 0 0 0 0 \n":             errNoLedger,
		head + "s 1 0 0 0 0 0 \ns 2 0 0 0\n":   errNoLedger,
		head + "s 1 0 0 0 0 92233720368547758": errNoLedger,
	}
	for data, want := range tests {
		if got, err := decodeBatch([]byte(data)); !errors.Is(err, want) || !reflect.DeepEqual(got, ledgerBatch{}) {
			t.Errorf("%q is %+v, %v, want %v", data, got, err, want)
		}
	}
}

func FuzzDecodeBatch(f *testing.F) {
	for _, seed := range []string{
		"kexrelay-ledger/1 9f86d081884c7d65 4711\ns 12345 1795356306123456789 1 0 0 30000 sys12345678\n",
		"kexrelay-ledger/1 p 0\nS 1 -1 4 1 2 0 a b\nr 2 0 0 0 0 0 \nO 3 0 0 0 0 0 \ni 3 0 0 0 0 0 \n",
		"kexrelay-ledger/1 p 1\n", "kexrelay-ledger/2 p 1\n", "", "\n", "kexrelay-ledger/1 p 1\n\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		batch, err := decodeBatch(data)
		if err != nil {
			if !reflect.DeepEqual(batch, ledgerBatch{}) {
				t.Errorf("something beside the error %v: %+v", err, batch)
			}
			return
		}
		if again := batch.encode(); !bytes.Equal(again, data) {
			t.Errorf("encoded as %q, read from %q", again, data)
		}
		for _, r := range batch.records {
			if r.attempts < 0 || r.unknowns < 0 || r.crashes < 0 || r.timeout() < 0 || len(r.requestID) > maxRequestID {
				t.Errorf("record out of bounds: %+v", r)
			}
		}
	})
}
