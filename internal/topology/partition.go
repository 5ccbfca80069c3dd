package topology

import "hash/fnv"

// Partition is the partition of n (at least 1) in which the server stores a Vorgang's updates.
func Partition(vorgangsnummer string, n int) int {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(vorgangsnummer)) // Never fails.
	return int(hash.Sum32() % uint32(n))      //nolint:gosec // G115: n is at most MaxPartitions.
}
