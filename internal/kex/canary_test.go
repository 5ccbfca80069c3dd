package kex

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// noCanary fails if any text that can be had from err holds something that has to stay private.
func noCanary(tb testing.TB, err error, more ...string) {
	tb.Helper()
	f := faultOf(tb, err)
	texts := slices.Concat(more, []string{f.Detail, f.Error(), fmt.Sprintf("%v %+v %#v", err, err, *f)})
	for cause := f.Err; cause != nil; {
		texts = append(texts, cause.Error())
		next, ok := cause.(interface{ Unwrap() error })
		if !ok {
			break
		}
		cause = next.Unwrap()
	}
	for _, text := range texts {
		for _, canary := range canaries() {
			if strings.Contains(strings.ToLower(text), strings.ToLower(canary)) {
				tb.Errorf("%q is in %q", canary, text)
			}
		}
	}
}

// canaries are the parts by which anything private would be recognised.
func canaries() []string {
	return []string{
		canarySecret, "Canary", "47110815", canaryToken, "9f8e7d6c5b4a", "signature",
		"Gehaltsnachweis", "Mustermann", "Krüger", "Kr\\u00fcger", "2024",
		"Quittenbaum", "verdient", "Zwiebelfisch", "wohnt",
	}
}
