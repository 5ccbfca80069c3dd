package main

import (
	"net/http"

	"github.com/spf13/cobra"

	"kexrelay/internal/telemetry"
)

// healthcheckCommand is `kexrelay healthcheck`: the image has no shell and no curl. It is for containers, so its exit
// codes are those Docker knows: 0 healthy, 1 not.
type healthcheckCommand struct {
	url string
}

func newHealthcheckCommand() *cobra.Command {
	c := &healthcheckCommand{}
	cmd := &cobra.Command{
		Use:     "healthcheck",
		Short:   "Ask a running relay whether it is well (for containers)",
		Long:    "Asks a health endpoint of a running relay once: code 0 for a 200, else 1.",
		Example: "  kexrelay healthcheck --url http://127.0.0.1:8080/readyz",
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.run(cmd) },
	}
	cmd.Flags().StringVar(&c.url, "url", "http://127.0.0.1:8080/livez", "the `url` of /livez or /readyz")
	completeNothing(cmd, "url")
	return cmd
}

func (c *healthcheckCommand) run(cmd *cobra.Command) error {
	// No proxy: the relay is in the same container.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return telemetry.CheckHealth(cmd.Context(), client, c.url)
}
