// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// service gives a version of a Service of some life.
func service(name, uid string, version int) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{
		Namespace: "default", Name: name, UID: types.UID(uid), ResourceVersion: strconv.Itoa(version),
	}}
}

func show(services []*corev1.Service) string {
	var out []string
	for _, svc := range services {
		out = append(out, svc.Name+"/"+string(svc.UID)+"@"+svc.ResourceVersion)
	}
	return strings.Join(out, " ")
}

func TestTableTakesTheNewerOfWatchAndWrite(t *testing.T) {
	type tab = *table[*corev1.Service]
	for name, tc := range map[string]struct {
		do   func(tab)
		want string
	}{
		"a watch": {func(t tab) { t.saw(service("b", "1", 5)); t.saw(service("a", "2", 6)); t.saw(service("b", "1", 7)) }, "a/2@6 b/1@7"},
		"an end":  {func(t tab) { t.saw(service("a", "1", 5)); t.sawEnd(service("a", "1", 6)) }, ""},
		"a write that the watch shows later": {
			func(t tab) { t.saw(service("a", "1", 5)); t.wrote(service("a", "1", 9)); t.saw(service("a", "1", 7)) }, "a/1@9",
		},
		"a write, and what came after it": {
			func(t tab) { t.wrote(service("a", "1", 9)); t.saw(service("a", "1", 9)); t.saw(service("a", "1", 10)) }, "a/1@10",
		},
		"a write whose answer is later than the watch": {
			func(t tab) { t.saw(service("a", "1", 11)); t.wrote(service("a", "1", 9)) }, "a/1@11",
		},
		"versions of unequal length": {
			func(t tab) { t.wrote(service("a", "1", 10)); t.saw(service("a", "1", 9)) }, "a/1@10",
		},
		"a removal, and what is from before it": {
			func(t tab) { t.saw(service("a", "1", 5)); t.removed(service("a", "1", 5)); t.saw(service("a", "1", 5)) }, "",
		},
		"a removal, and another of that name": {
			func(t tab) { t.saw(service("a", "1", 5)); t.removed(service("a", "1", 5)); t.saw(service("a", "2", 8)) }, "a/2@8",
		},
		"made anew before the watch shows the end of the former": {
			func(t tab) {
				t.saw(service("a", "1", 5))
				t.removed(service("a", "1", 5))
				t.wrote(service("a", "2", 8))
				t.saw(service("a", "1", 6))
				t.sawEnd(service("a", "1", 7))
			},
			"a/2@8",
		},
		"an end of what we wrote": {
			func(t tab) { t.wrote(service("a", "1", 5)); t.sawEnd(service("a", "1", 5)) }, "",
		},
		"a removal of another life": {
			func(t tab) { t.saw(service("a", "2", 5)); t.removed(service("a", "1", 4)) }, "a/2@5",
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, listing := range []bool{false, true} { // between the steps nothing is special
				table := newTable[*corev1.Service]()
				if listing {
					table.list()
				}
				tc.do(table)
				if got := show(table.list()); got != tc.want {
					t.Errorf("got %q, want %q", got, tc.want)
				}
			}
		})
	}
}

// TestTableIsAMap compares a table with a map, over random steps and lists.
func TestTableIsAMap(t *testing.T) {
	draw := rand.New(rand.NewPCG(1, 2))
	tab, want := newTable[*corev1.Service](), map[string]string{}
	for version := 1; version < 20_000; version++ {
		name := "s" + strconv.Itoa(draw.IntN(50))
		switch draw.IntN(5) {
		case 0:
			if old, ok := tab.find(types.NamespacedName{Namespace: "default", Name: name}); ok {
				tab.sawEnd(old)
			}
			delete(want, name)
		case 1:
			tab.list()
		default:
			tab.saw(service(name, "uid", version))
			want[name] = strconv.Itoa(version)
		}
		if version%10 != 0 {
			continue
		}
		got := map[string]string{}
		last := ""
		for _, svc := range tab.list() {
			if svc.Name <= last {
				t.Fatalf("%q is behind %q", svc.Name, last)
			}
			last = svc.Name
			got[svc.Name] = svc.ResourceVersion
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("at %d (-want +got):\n%s", version, diff)
		}
	}
}

func TestTableDoesNotCallOldNewsNews(t *testing.T) {
	tab := newTable[*corev1.Service]()
	if !tab.saw(service("a", "1", 5)) {
		t.Error("the first sight is no news")
	}
	if tab.saw(service("a", "1", 5)) {
		t.Error("the same again is news")
	}
	tab.wrote(service("a", "1", 8))
	if tab.saw(service("a", "1", 8)) {
		t.Error("what we wrote is news to us")
	}
	nodes := newTable[*corev1.Node]()
	node := func(ready corev1.ConditionStatus, heartbeat time.Time) *corev1.Node {
		return reduceNode(&corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n", ResourceVersion: heartbeat.String()},
			Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
				{Type: corev1.NodeReady, Status: ready, LastHeartbeatTime: metav1.NewTime(heartbeat)},
			}},
		})
	}
	nodes.saw(node(corev1.ConditionTrue, time.Unix(100, 0)))
	if nodes.saw(node(corev1.ConditionTrue, time.Unix(400, 0))) {
		t.Error("a heartbeat is news")
	}
	if !nodes.saw(node(corev1.ConditionFalse, time.Unix(500, 0))) {
		t.Error("that a node is not ready any more is no news")
	}
}

// TestTableForgetsAWriteThatTheWatchNeverShowed: somebody undid it while the watch was interrupted.
func TestTableForgetsAWriteThatTheWatchNeverShowed(t *testing.T) {
	other, watched := cache.NewStore(cache.MetaNamespaceKeyFunc), cache.NewStore(cache.MetaNamespaceKeyFunc)
	tab := newTable[*corev1.Service]()
	tab.watched = []cache.Store{other, watched}
	tab.wrote(service("a", "1", 5))
	tab.saw(service("b", "2", 6))
	if err := watched.Add(service("b", "2", 6)); err != nil {
		t.Fatal(err)
	}
	if tab.reconcile(time.Now()) {
		t.Error("it did not wait")
	}
	if !tab.reconcile(time.Now().Add(settled + time.Second)) {
		t.Error("nothing changed")
	}
	if got, want := show(tab.list()), "b/2@6"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	tab.removed(service("b", "2", 6))
	if err := watched.Update(service("b", "2", 9)); err != nil { // the deletion's answer was lost in a restore, say
		t.Fatal(err)
	}
	if !tab.reconcile(time.Now().Add(settled+time.Second)) || show(tab.list()) != "b/2@9" {
		t.Errorf("got %q, want what the watch has", show(tab.list()))
	}
}

func TestAListStaysAsItWas(t *testing.T) {
	table := newTable[*corev1.Service]()
	table.saw(service("a", "1", 1))
	table.saw(service("b", "2", 2))
	before := table.list()
	old := show(before)
	table.saw(service("a", "1", 3))
	if after := show(table.list()); after == old {
		t.Errorf("the list is still %s", after)
	}
	if now := show(before); now != old {
		t.Errorf("a list that was given was %s, and is %s", old, now)
	}
}
