package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
)

// benchReport is what the benchmark tells: medians over its rounds.
type benchReport struct {
	CPU    string       `json:"cpu"`
	Cores  int          `json:"cores"`
	Go     string       `json:"go"`
	NATS   string       `json:"natsServer"`
	Rounds int          `json:"rounds"`
	Cases  []reportCase `json:"cases"`
}

// reportCase is a case with its limits and its contestants.
type reportCase struct {
	benchCase
	Latency string      `json:"apiLatency"`
	Size    int         `json:"bytes"`
	Limits  limits      `json:"limits"`
	Runs    []reportRun `json:"contestants"`
}

type reportRun struct {
	Contestant string `json:"contestant"`
	benchRun
	// Least and Most are the slowest and the fastest round, in updates per second.
	Least float64 `json:"leastUpdatesPerSecond"`
	Most  float64 `json:"mostUpdatesPerSecond"`
}

func medianOf[T any](all []T, of func(T) float64) float64 {
	if len(all) == 0 {
		return 0
	}
	values := make([]float64, len(all))
	for i, one := range all {
		values[i] = of(one)
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

func (b *bench) report() benchReport {
	b.tb.Helper()
	version, err := exec.CommandContext(b.tb.Context(), programs.natsServer, "--version").Output()
	b.must(err)
	r := benchReport{
		CPU: cpuModel(), Cores: runtime.NumCPU(), Go: runtime.Version(),
		NATS: strings.TrimPrefix(strings.TrimSpace(string(version)), "nats-server: "), Rounds: b.rounds,
	}
	for _, k := range b.cases {
		all := b.limits[k.Name]
		rc := reportCase{benchCase: k, Latency: k.Latency.String(), Size: k.load.size, Limits: limits{
			H: medianOf(all, func(l limits) float64 { return l.H }), J: medianOf(all, func(l limits) float64 { return l.J }),
			P: medianOf(all, func(l limits) float64 { return l.P }), C: medianOf(all, func(l limits) float64 { return l.C }),
			CPU: medianOf(all, func(l limits) float64 { return l.CPU }),
		}}
		for _, c := range b.contestants {
			if runs := b.runs[benchKey{k.Name, c.name}]; len(runs) > 0 {
				rc.Runs = append(rc.Runs, medianRun(c.name, runs))
			}
		}
		r.Cases = append(r.Cases, rc)
	}
	return r
}

func medianRun(name string, runs []benchRun) reportRun {
	of := func(field func(benchRun) float64) float64 { return medianOf(runs, field) }
	r := reportRun{Contestant: name, Least: runs[0].Rate, Most: runs[0].Rate, benchRun: benchRun{
		Rate:  of(func(r benchRun) float64 { return r.Rate }),
		MBps:  of(func(r benchRun) float64 { return r.MBps }),
		OfC:   of(func(r benchRun) float64 { return r.OfC }),
		CPUOf: of(func(r benchRun) float64 { return r.CPUOf }),
		P50:   of(func(r benchRun) float64 { return r.P50 }),
		P99:   of(func(r benchRun) float64 { return r.P99 }),
		Own:   of(func(r benchRun) float64 { return r.Own }),
		NATS:  of(func(r benchRun) float64 { return r.NATS }),
		API:   of(func(r benchRun) float64 { return r.API }),
	}}
	for _, one := range runs {
		r.Least, r.Most, r.PeakB = min(r.Least, one.Rate), max(r.Most, one.Rate), max(r.PeakB, one.PeakB)
	}
	return r
}

// cpuModel is what the kernel calls the processor, empty where it does not tell.
func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func (r benchReport) json(tb testing.TB) []byte {
	tb.Helper()
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		tb.Fatal(err)
	}
	return append(text, '\n')
}

func (r benchReport) table() string {
	var out strings.Builder
	fmt.Fprintf(&out, "%d cores (%s), %s, nats-server %s; medians of %d rounds, peak RSS the highest; CPU in seconds per 10,000 updates\n",
		r.Cores, r.CPU, r.Go, r.NATS, r.Rounds)
	for _, k := range r.Cases {
		fmt.Fprintf(&out, "\n%s, %d in flight", k.Name, k.InFlight)
		if k.Rate > 0 {
			fmt.Fprintf(&out, ", %d published per second\n", k.Rate)
		} else {
			fmt.Fprintf(&out, "\nlimits per second: H %s (HTTP), J %s (consume+ack), P %s (publish), C %s (composed); their CPU %.2f\n",
				digits(k.Limits.H), digits(k.Limits.J), digits(k.Limits.P), digits(k.Limits.C), k.Limits.CPU)
		}
		w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
		k.rows(w)
		_ = w.Flush() // Into memory.
	}
	return out.String()
}

// rows writes a line per contestant.
func (k reportCase) rows(w io.Writer) {
	const cpu = "own CPU\tNATS CPU\tAPI CPU\tpeak RSS MB\t \t\n"
	of := "of C"
	if k.ideal > 0 {
		of = "of " + digits(k.ideal)
	}
	if k.Rate > 0 {
		fmt.Fprint(w, "p50 ms\tp99 ms\t"+cpu)
	} else {
		fmt.Fprint(w, "updates/s\tleast–most\tMB/s\t"+of+"\tCPU of C\t"+cpu)
	}
	for _, run := range k.Runs {
		if k.Rate > 0 {
			fmt.Fprintf(w, "%.2f\t%.2f\t", run.P50, run.P99)
		} else {
			fmt.Fprintf(w, "%s\t%s–%s\t%s\t%.0f %%\t%.0f %%\t",
				digits(run.Rate), digits(run.Least), digits(run.Most), digits(run.MBps), 100*run.OfC, 100*run.CPUOf)
		}
		fmt.Fprintf(w, "%.2f\t%.2f\t%.2f\t%.0f\t %s\t\n", run.Own, run.NATS, run.API, run.PeakB/1e6, run.Contestant)
	}
}

// digits writes small numbers with a decimal.
func digits(f float64) string {
	if f < 10 {
		return fmt.Sprintf("%.1f", f)
	}
	return fmt.Sprintf("%.0f", f)
}
