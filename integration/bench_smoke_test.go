package integration

import (
	"encoding/json"
	"strings"
	"testing"
)

// The benchmark runs, and its report names every contestant of every case with all its figures. How large they are
// does not matter here.
func TestTheBenchmarkTellsAllItsFigures(t *testing.T) {
	cases := benchCases(0.004)
	b := newBench(t, cases)
	b.round()
	r := b.report()
	table := r.table()
	var cpu float64
	for i, k := range r.Cases {
		if k.Name != cases[i].Name || len(k.Runs) != len(b.contestants)-len(k.without) {
			t.Errorf("%s: %d contestants, want %d", k.Name, len(k.Runs), len(b.contestants)-len(k.without))
		}
		if l := k.Limits; k.Rate == 0 && (l.H <= 0 || l.J <= 0 || l.P <= 0 || l.C <= 0 || l.C >= min(l.H, l.J, l.P)) {
			t.Errorf("%s: limits %+v", k.Name, l)
		}
		for _, run := range k.Runs {
			paced := k.Rate > 0
			if run.Rate <= 0 || run.MBps <= 0 || run.PeakB < 1<<20 || run.Least > run.Most ||
				paced != (run.P50 > 0 && run.P99 >= run.P50) || paced == (run.OfC > 0) {
				t.Errorf("%s: %+v", k.Name, run)
			}
			cpu += min(run.Own, run.NATS, run.API) // Of a few updates it may be too little to be counted.
			if !strings.Contains(table, " "+run.Contestant+"\n") {
				t.Errorf("%s is not in the table", run.Contestant)
			}
		}
		if !strings.Contains(table, k.Name) {
			t.Errorf("%s is not in the table", k.Name)
		}
	}
	if len(r.Cases) != len(cases) || cpu <= 0 {
		t.Errorf("%d of %d cases, CPU %v", len(r.Cases), len(cases), cpu)
	}
	var read struct {
		Cores int
		Cases []struct {
			Name        string
			Limits      struct{ H float64 }
			Contestants []struct{ UpdatesPerSecond, PeakRSSBytes float64 }
		}
	}
	if err := json.Unmarshal(r.json(t), &read); err != nil {
		t.Fatal(err)
	}
	if read.Cores == 0 || len(read.Cases) != len(cases) || read.Cases[0].Limits.H <= 0 ||
		len(read.Cases[0].Contestants) != len(b.contestants) || read.Cases[0].Contestants[0].PeakRSSBytes <= 0 {
		t.Errorf("as JSON it is %+v", read)
	}
	if t.Failed() {
		t.Log(table)
	}
}
