// SPDX-License-Identifier: Apache-2.0

// Command traffic is both ends of the integration tests' connections: a server that says which pod it is and whom it sees,
// and clients that count what they are told. It must not know of load balancing.
//
//	traffic serve -name POD [-port 80]       HTTP on TCP, and the same answer to every UDP datagram:
//	                                            who and whom he saw, and what was sent, with its hash
//	traffic load -n 1000 -c 50 HOST:PORT        n requests, each on a connection of its own
//	traffic udp -n 100 HOST:PORT                n datagrams, each from a port of its own, or all from the port of -from
//	traffic echo -n 10 HOST                     n ICMP echo requests, one after the other
//	traffic flood -n 10000 HOST[:PORT]          n datagrams, or echo requests, for no answer; prints nothing
//	traffic tagged -dev eth0 -to MAC -tags 8100:a000 -n 10 HOST:PORT
//	                                            n datagrams, each in a frame with these VLAN tags
//	traffic hold -c 50 HOST:PORT                c connections that ask until SIGTERM
//	traffic first HOST:PORT                     sends datagrams until one is answered, prints when, in ns since 1970
//	traffic connect HOST:PORT                   opens connections until one is answered, and then until none is for a second;
//	                                            prints when the first and the last answer came, in ns since 1970
//	traffic turns HOST:PORT                     connects until SIGTERM; prints "open" or "refused" whenever it turns, and when
//
// The other clients print a Report as JSON and exit with 1 if it lists errors.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// Report is what a client saw.
type Report struct {
	Pods    map[string]int `json:"pods"`    // answers by the pod that gave them
	Clients map[string]int `json:"clients"` // answers by the client address that the pod saw
	Errors  []string       `json:"errors"`  // at most maxErrors
	// LongestGap is the longest time that a held connection waited for an answer.
	LongestGap time.Duration `json:"longestGap"`

	mu sync.Mutex
}

const maxErrors = 20

func main() { os.Exit(run()) }

func run() int {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: traffic serve|load|udp|echo|flood|tagged|hold|first|connect|turns [flags] [HOST[:PORT]]")
		return 2
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	name := flags.String("name", "", "name that the server answers with")
	port := flags.String("port", "80", "port that the server listens on")
	count := flags.Int("n", 100, "number of requests")
	parallel := flags.Int("c", 10, "connections at the same time")
	size := flags.Int("bytes", 4, "octets that a request carries and that its answer must give back; a datagram: at most 1400")
	from := flags.Int("from", 0, "source port of datagrams, which then go one after the other; 0: any")
	dev := flags.String("dev", "eth0", "interface that tagged frames leave by")
	to := flags.String("to", "", "MAC that tagged frames go to")
	tags := flags.String("tags", "8100:0000", "tags, the outermost first: EtherType and tag control information in hexadecimal")
	timeout := flags.Duration("timeout", 5*time.Second, "limit of one request")
	_ = flags.Parse(os.Args[2:]) // ExitOnError

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	report := &Report{Pods: map[string]int{}, Clients: map[string]int{}}
	c := client{target: flags.Arg(0), size: *size, timeout: *timeout, port: *from}
	switch os.Args[1] {
	case "serve":
		if err := serve(ctx, *port, *name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	case "first":
		if err := first(ctx, c.target); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	case "connect":
		if err := connect(ctx, c.target); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	case "turns":
		turns(ctx, c.target)
		return 0
	case "flood":
		if err := flood(ctx, c, *count); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	case "load":
		load(report, c, *count, *parallel)
	case "udp":
		if *from != 0 {
			*parallel = 1
		}
		datagrams(ctx, report, c, *count, *parallel)
	case "echo":
		if err := echoes(ctx, report, c, *count); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	case "tagged":
		if err := tagged(report, c, *count, *dev, *to, *tags); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	case "hold":
		hold(ctx, report, c, *parallel)
	default:
		fmt.Fprintf(os.Stderr, "traffic: unknown command %q\n", os.Args[1])
		return 2
	}
	if err := json.NewEncoder(os.Stdout).Encode(report); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return min(len(report.Errors), 1)
}
