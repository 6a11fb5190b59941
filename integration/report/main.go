// SPDX-License-Identifier: Apache-2.0

// Command report runs `go test -json` for one lane of test_linux.sh and tells it in few lines: each package's result, the
// output of what failed, and every skipped test with its reason. It must not decide what runs.
//
//	report -lane NAME -append FILE [-narrowed] go test -json PACKAGES   runs a lane, adds its results to FILE
//	report -matrix FILE                                                 prints the cells of TestMatrix as a table
//	report -total FILE                                                  prints all lanes' skips and the closing line
//
// A lane without a test is an error; with -narrowed, only if no other lane has one.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
)

func main() { os.Exit(run()) }

func run() int {
	lane := flag.String("lane", "", "name of the lane")
	file := flag.String("append", "", "file that collects the results of all lanes")
	total := flag.String("total", "", "file with the results to sum up")
	cells := flag.String("matrix", "", "file with the results to make the table of TestMatrix from")
	narrowed := flag.Bool("narrowed", false, "the lane may have nothing to run")
	flag.Parse()
	var err error
	switch {
	case *total != "":
		err = sum(os.Stdout, *total)
	case *cells != "":
		err = table(os.Stdout, *cells)
	default:
		if err = runLane(*lane, *file, *narrowed, flag.Args()); err != nil {
			err = fmt.Errorf("lane %s: %w", *lane, err)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

var errNoTest = errors.New("no test ran")

func runLane(lane, file string, narrowed bool, command []string) error {
	if len(command) == 0 || file == "" {
		return errors.New("usage: report -lane NAME -append FILE [-narrowed] go test -json PACKAGES")
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	results, err := read(stdout, os.Stdout)
	if err != nil {
		return errors.Join(err, cmd.Wait())
	}
	testErr := cmd.Wait()
	ran := results.counts()
	fmt.Printf("lane %s: %s\n", lane, ran)
	if err := results.save(file, lane); err != nil {
		return err
	}
	switch {
	case testErr != nil:
		return testErr
	case ran.failed > 0:
		return errors.New("tests failed")
	case ran == counts{} && !narrowed:
		return errNoTest
	}
	return nil
}
