package telemetry

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Protocols of OTLP.
const (
	protocolHTTP = "http/protobuf"
	protocolGRPC = "grpc"
)

// maxCertificate bounds files that variables name.
const maxCertificate = 1 << 20

// Variables looks up OpenTelemetry's environment variables. OpenTelemetry's SDK reads them by itself, from the same
// environment; here they are checked, because it goes on with a default where it does not understand one.
type Variables func(name string) (string, bool)

func (v Variables) get(name string) string {
	value, _ := v(name)
	return strings.TrimSpace(value)
}

// ofTraces is a variable's value for traces: its own, else that for everything.
func (v Variables) ofTraces(suffix string) (name, value string) {
	own, all := "OTEL_EXPORTER_OTLP_TRACES_"+suffix, "OTEL_EXPORTER_OTLP_"+suffix
	if value := v.get(own); value != "" {
		return own, value
	}
	return all, v.get(all)
}

func (v Variables) protocol() string {
	if _, value := v.ofTraces("PROTOCOL"); value != "" {
		return value
	}
	return protocolHTTP
}

// TracingWanted says whether spans are to be exported: if a collector is named, or OTEL_TRACES_EXPORTER is otlp. The error
// joins all that is wrong with the variables, each problem beginning with a variable's name, without a secret.
func TracingWanted(v Variables) (bool, error) {
	if strings.EqualFold(v.get("OTEL_SDK_DISABLED"), "true") {
		return false, nil
	}
	_, endpoint := v.ofTraces("ENDPOINT")
	switch exporter := v.get("OTEL_TRACES_EXPORTER"); exporter {
	case "none":
		return false, nil
	case "otlp":
	case "":
		if endpoint == "" {
			return false, nil
		}
	default:
		return false, errors.New("OTEL_TRACES_EXPORTER: is neither otlp nor none")
	}
	return true, errors.Join(v.checkExporter(), v.checkNumbers(), v.checkSampler())
}

func (v Variables) checkExporter() error {
	var errs []error
	fail := func(name, problem string) { errs = append(errs, fmt.Errorf("%s: %s", name, problem)) }
	if name, value := v.ofTraces("PROTOCOL"); value != "" && value != protocolHTTP && value != protocolGRPC {
		fail(name, "is neither "+protocolHTTP+" nor "+protocolGRPC)
	}
	if name, value := v.ofTraces("ENDPOINT"); value != "" {
		switch u, err := url.Parse(value); {
		case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
			fail(name, "is no URL; write for example http://127.0.0.1:4318")
		case u.User != nil:
			fail(name, "holds a user or password; use OTEL_EXPORTER_OTLP_HEADERS")
		}
	}
	if name, value := v.ofTraces("HEADERS"); value != "" && !validPairs(value) {
		fail(name, "is no list of name=value, separated by commas")
	}
	if name, value := v.ofTraces("COMPRESSION"); value != "" && value != "gzip" && value != "none" {
		fail(name, "is neither gzip nor none")
	}
	for _, suffix := range []string{"CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"} {
		if name, value := v.ofTraces(suffix); value != "" {
			if info, err := os.Stat(value); err != nil || info.IsDir() || info.Size() == 0 || info.Size() > maxCertificate {
				fail(name, "names no file that can be read, or one that is empty")
			}
		}
	}
	return errors.Join(errs...)
}

func validPairs(list string) bool {
	for pair := range strings.SplitSeq(list, ",") {
		if key, _, ok := strings.Cut(pair, "="); !ok || strings.TrimSpace(key) == "" {
			return false
		}
	}
	return true
}

func (v Variables) checkNumbers() error {
	var errs []error
	timeout, _ := v.ofTraces("TIMEOUT")
	for _, name := range []string{
		timeout, "OTEL_BSP_SCHEDULE_DELAY", "OTEL_BSP_EXPORT_TIMEOUT", "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
	} {
		value := v.get(name)
		if n, err := strconv.Atoi(value); value != "" && (err != nil || n <= 0) {
			errs = append(errs, fmt.Errorf("%s: is no whole number above 0", name))
		}
	}
	return errors.Join(errs...)
}

func (v Variables) checkSampler() error {
	const name, argument = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
	sampler := v.get(name)
	known := []string{
		"", "always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio",
	}
	if !slices.Contains(known, sampler) {
		return fmt.Errorf("%s: is none of %s", name, strings.Join(known[1:], ", "))
	}
	if value := v.get(argument); value != "" && strings.HasSuffix(sampler, "traceidratio") {
		if ratio, err := strconv.ParseFloat(value, 64); err != nil || !(ratio >= 0 && ratio <= 1) {
			return fmt.Errorf("%s: is no number from 0 to 1", argument)
		}
	}
	return nil
}
