//go:build !race

package integration

// raceDetector says that the tests were built with -race: then the relay is too.
const raceDetector = false
