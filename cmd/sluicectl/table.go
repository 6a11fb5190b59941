// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"net/netip"
	"strings"
	"text/tabwriter"

	"github.com/sluice-lb/sluice/daemon/api"
)

// The columns: of a Service, in the first line of its group; of each backend; and what -o wide adds to both.
var (
	serviceColumns     = []string{"SERVICE", "VIP", "PORT", "ALGORITHM", "MODE"}
	serviceColumnsWide = []string{"NETWORK", "OWNER", "MASTER"}
	backendColumns     = []string{"BACKEND", "POD", "WEIGHT", "STATE", "CONNECTIONS", "PACKETS", "BYTES"}
	backendColumnsWide = []string{"MAC", "NODE"}
)

// none stands where there is nothing to name, as kubectl does it.
const none = "<none>"

// printTable prints a line for each backend, grouped by Service. A Service without backends has a line too.
func printTable(w io.Writer, services []api.Service, wide bool) error {
	if len(services) == 0 {
		_, err := fmt.Fprintln(w, "This node balances no Services.")
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	line := func(cells ...[]string) {
		var all []string
		for _, c := range cells {
			all = append(all, c...)
		}
		fmt.Fprintln(tw, strings.Join(all, "\t")) // tabwriter keeps the error for Flush
	}
	if wide {
		line(serviceColumns, serviceColumnsWide, backendColumns, backendColumnsWide)
	} else {
		line(serviceColumns, backendColumns)
	}
	for _, s := range services {
		left := serviceCells(s, wide)
		if len(s.Backends) == 0 {
			line(left, []string{none, none, "-", s.State, "0", "0", "0"}, padding(wide))
		}
		for _, b := range s.Backends {
			line(left, backendCells(s, b, wide))
			left = make([]string, len(left))
		}
	}
	return tw.Flush()
}

func serviceCells(s api.Service, wide bool) []string {
	cells := []string{
		s.Namespace + "/" + s.Name, s.VIP.String(), fmt.Sprintf("%d/%s", s.Port, s.Protocol), s.Algorithm, s.Mode,
	}
	if wide {
		cells = append(cells, s.Network, orNone(s.Owner), s.Master)
		if s.State == api.StateMasterDown {
			cells[len(cells)-1] += " (down)"
		}
	}
	return cells
}

// backendCells tells what a backend may receive through this node, which is nothing while the master is down.
func backendCells(s api.Service, b api.Backend, wide bool) []string {
	state := b.State
	if s.State == api.StateMasterDown {
		state = s.State
	}
	cells := []string{
		netip.AddrPortFrom(b.Address, b.Port).String(), strings.TrimPrefix(b.Pod, s.Namespace+"/"), fmt.Sprint(b.Weight),
		state, fmt.Sprint(b.Counters.Connections), fmt.Sprint(b.Counters.Packets), fmt.Sprint(b.Counters.Bytes),
	}
	if wide {
		cells = append(cells, b.MAC.String(), orNone(b.Node))
	}
	return cells
}

func padding(wide bool) []string {
	if wide {
		return []string{none, none}
	}
	return nil
}

func orNone(s string) string {
	if s == "" {
		return none
	}
	return s
}

// printIssues prints a line for each issue. The message is last, because it is long.
func printIssues(w io.Writer, issues []api.Issue, _ bool) error {
	if len(issues) == 0 {
		_, err := fmt.Fprintln(w, "This node finds nothing wrong.")
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "OBJECT\tREASON\tMESSAGE")
	for _, i := range issues {
		fmt.Fprintf(tw, "%s\t%s\t%s\n", i.Object, i.Reason, i.Message)
	}
	return tw.Flush()
}
