package journal

import "time"

// Trouble is why this process's record cannot be written, and so no lease either.
type Trouble struct {
	// Since is the first try that failed, Detail what the last one said.
	Since  time.Time
	Detail string
}

// noted keeps since when trouble lasts.
func (r *registration) noted(err error) {
	if err == nil {
		r.trouble.Store(nil)
		return
	}
	now := Trouble{Since: time.Now(), Detail: err.Error()}
	if before := r.trouble.Load(); before != nil {
		now.Since = before.Since
	}
	r.trouble.Store(&now)
}

// Trouble says why NATS has not taken this process's record for so long that its leases are lost, nil if it has: as on a
// full disk, where nothing that is read shows that anything is wrong.
func (m *Members) Trouble() *Trouble {
	trouble := m.self.trouble.Load()
	if trouble == nil || time.Since(trouble.Since) < m.leases.timing.valid {
		return nil
	}
	return trouble
}
