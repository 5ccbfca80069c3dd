package simulator

import (
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxBodySize bounds a scripted answer's body.
const maxBodySize = 1 << 30

// Validate says everything that is wrong with the script, each with the place where it stands, or nil.
func (s Script) Validate() error {
	errs := []error{s.Latency.validate("latency")}
	if s.Throttle != nil {
		errs = append(errs, s.Throttle.validate("throttle"))
	}
	for i, o := range s.Outages {
		errs = append(errs, o.validate(at("outages", i)))
	}
	errs = append(errs, validateSteps(s.Sequence, "sequence"))
	for i, rule := range s.Vorgaenge {
		errs = append(errs, rule.validate(at("vorgaenge", i)))
	}
	errs = append(errs, s.validateFaults(), s.Token.validate())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("checking the script: %w", err)
	}
	return nil
}

func (s Script) validateFaults() error {
	var errs []error
	sums := map[string]float64{}
	for i, f := range s.Faults {
		where := at("faults", i)
		errs = append(errs, f.Answer.validate(where), oneOf(where+".kind", f.Kind, "", KindDocument, KindComments, KindProbe))
		if !(f.Rate >= 0 && f.Rate <= 1) { // So that NaN is refused too.
			errs = append(errs, fmt.Errorf("%s.rate: %v is not between 0 and 1", where, f.Rate))
			continue
		}
		for _, kind := range []string{KindDocument, KindComments, KindProbe} {
			if f.concerns(kind) {
				sums[kind] += f.Rate
			}
		}
	}
	for _, kind := range []string{KindDocument, KindComments, KindProbe} {
		if sums[kind] > 1+1e-9 {
			errs = append(errs, fmt.Errorf("faults: the rates for %s add up to %.4g, at most 1 is possible", kind, sums[kind]))
		}
	}
	return errors.Join(errs...)
}

func (r VorgangRule) validate(where string) error {
	errs := []error{
		oneOf(where+".kind", r.Kind, "", KindDocument, KindComments),
		validateSteps(r.Sequence, where+".sequence"),
	}
	if len(r.Match) == 0 {
		errs = append(errs, fmt.Errorf("%s.match: names no Vorgang", where))
	}
	for _, pattern := range r.Match {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			errs = append(errs, fmt.Errorf("%s.match: %q is no pattern", where, pattern))
		}
	}
	if len(r.Sequence) == 0 && r.Always == nil {
		errs = append(errs, fmt.Errorf("%s: has neither sequence nor always", where))
	}
	if r.Always != nil {
		errs = append(errs, r.Always.validate(where+".always"))
	}
	return errors.Join(errs...)
}

func (t Throttle) validate(where string) error {
	errs := []error{t.Answer.validate(where)}
	if !(t.Rate > 0 && t.Rate <= 1e9) {
		errs = append(errs, fmt.Errorf("%s.rate: %v is no rate per second above 0", where, t.Rate))
	}
	if t.Burst < 0 {
		errs = append(errs, fmt.Errorf("%s.burst: %d is negative", where, t.Burst))
	}
	return errors.Join(errs...)
}

func (o Outage) validate(where string) error {
	errs := []error{
		o.Answer.validate(where),
		oneOf(where+".of", o.Of, "", OfAPI, OfToken, OfAll),
		notNegative(where+".from", o.From), notNegative(where+".for", o.For), notNegative(where+".every", o.Every),
	}
	if o.Every != 0 && (o.For == 0 || o.Every <= o.For) {
		errs = append(errs, fmt.Errorf("%s.every: %v must be longer than for (%v)", where, o.Every, o.For))
	}
	return errors.Join(errs...)
}

func (t TokenScript) validate() error {
	errs := []error{
		notNegative("token.ttl", t.TTL), notNegative("token.expires-in", t.ExpiresIn),
		t.Latency.validate("token.latency"), validateSteps(t.Sequence, "token.sequence"),
	}
	if t.Always != nil {
		errs = append(errs, t.Always.validate("token.always"))
	}
	for _, scope := range slices.Concat(t.Scopes, t.Granted) {
		if scope == "" || strings.ContainsAny(scope, " \"\\") {
			errs = append(errs, fmt.Errorf("token: %q is no scope", scope))
		}
	}
	return errors.Join(errs...)
}

func validateSteps(steps []Step, where string) error {
	var errs []error
	for i, step := range steps {
		errs = append(errs, step.Answer.validate(at(where, i)))
		if step.Times < 0 {
			errs = append(errs, fmt.Errorf("%s.times: %d is negative", at(where, i), step.Times))
		}
	}
	return errors.Join(errs...)
}

func (a Answer) validate(where string) error {
	errs := []error{
		oneOf(where+".cut", a.Cut, "", CutBeforeBooking, CutAfterBooking, CutMidAnswer),
		oneOf(where+".retry-after-form", a.RetryAfterForm, "", RetryAfterSeconds, RetryAfterDate),
		notNegative(where+".retry-after", a.RetryAfter), notNegative(where+".drip", a.Drip),
		a.Latency.validate(where + ".latency"), a.AnswerLatency.validate(where + ".answer-latency"),
	}
	if a.Status != 0 && (a.Status < http.StatusOK || a.Status > 599) {
		errs = append(errs, fmt.Errorf("%s.status: %d is no final status code (200–599)", where, a.Status))
	}
	if a.Reset && a.Cut == "" {
		errs = append(errs, fmt.Errorf("%s.reset: says how to cut, but there is no cut", where))
	}
	errs = append(errs, a.validateBooking(where), a.validateBody(where))
	if a.Location != "" && a.Status/100 != 3 {
		errs = append(errs, fmt.Errorf("%s.location: needs a status 3xx, not %d", where, a.Status))
	}
	return errors.Join(errs...)
}

// validateBooking looks for answers that would book and not book.
func (a Answer) validateBooking(where string) error {
	var errs []error
	if a.Early && (a.Cut == CutAfterBooking || (a.Book != nil && *a.Book)) {
		errs = append(errs, fmt.Errorf("%s.early: does not read the body, so nothing can be booked", where))
	}
	if a.Book != nil && (a.Cut == CutBeforeBooking && *a.Book || a.Cut == CutAfterBooking && !*a.Book) {
		errs = append(errs, fmt.Errorf("%s.book: %v contradicts cut: %s", where, *a.Book, a.Cut))
	}
	return errors.Join(errs...)
}

func (a Answer) validateBody(where string) error {
	var errs []error
	if a.BodySize < 0 || a.BodySize > maxBodySize {
		errs = append(errs, fmt.Errorf("%s.body-size: %d is not between 0 and %d", where, a.BodySize, maxBodySize))
	}
	if a.BodySize != 0 && a.Body != "" {
		errs = append(errs, fmt.Errorf("%s.body-size: excludes body", where))
	}
	for name, value := range a.Headers {
		if name == "" || strings.ContainsAny(name, " :\r\n\t") || strings.ContainsAny(value, "\r\n") {
			errs = append(errs, fmt.Errorf("%s.headers: %q is no header", where, name))
		}
	}
	return errors.Join(errs...)
}

// at is the place of a list's element.
func at(list string, index int) string { return list + "[" + strconv.Itoa(index) + "]" }

func oneOf(where, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	names := slices.DeleteFunc(slices.Clone(allowed), func(name string) bool { return name == "" })
	return fmt.Errorf("%s: %q is none of %s", where, value, strings.Join(names, ", "))
}

func notNegative(where string, d time.Duration) error {
	if d < 0 {
		return fmt.Errorf("%s: %v is negative", where, d)
	}
	return nil
}
