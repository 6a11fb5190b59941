// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/tools/cache"

	"github.com/sluice-lb/sluice/daemon/internal/kube"
)

// settled is how long a write of ours may stay unseen by the watch before it counts as undone by somebody whom the watch
// did not see either: it was interrupted just then, and the list that began it anew did not hold the object.
const settled = 30 * time.Second

// table holds the objects of one kind, sorted by namespace and name. Two parties tell it of objects: the watch, which is late
// but complete, and the Store, which knows its own writes at once. The resource version says who is newer.
type table[T kube.Object] struct {
	watched []cache.Store // what the watches have that feed it; set before they run

	mu sync.Mutex
	// Guarded by mu.
	sorted  []T                        // as of the last list, never changed in place
	changes map[types.NamespacedName]T // since then; the zero T for one that is gone
	written map[types.NamespacedName]written
}

// written is what the Store did last to an object, and the watch has not shown yet.
type written struct {
	at   time.Time
	uid  types.UID
	gone bool
}

func newTable[T kube.Object]() *table[T] {
	return &table[T]{changes: map[types.NamespacedName]T{}, written: map[types.NamespacedName]written{}}
}

func nameOf(object metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: object.GetNamespace(), Name: object.GetName()}
}

func compareNames(a, b types.NamespacedName) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// saw takes in what the watch shows, and tells whether that is news.
func (t *table[T]) saw(object T) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	name := nameOf(object)
	if last, ok := t.written[name]; ok {
		if last.gone && last.uid == object.GetUID() {
			return false // it is from before our deletion
		}
		if known, ok := t.get(name); ok && isOlder(object, known) {
			return false
		}
		delete(t.written, name)
	}
	if known, ok := t.get(name); ok && isSame(known, object) {
		return false
	}
	t.changes[name] = object
	return true
}

// sawEnd takes in that the watch shows an object no more, and tells whether that is news.
func (t *table[T]) sawEnd(object metav1.Object) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	name := nameOf(object)
	last, ok := t.written[name]
	if ok && !last.gone && last.uid != object.GetUID() {
		return false // we have made another one since
	}
	delete(t.written, name)
	if _, ok := t.get(name); !ok {
		return false
	}
	var gone T
	t.changes[name] = gone
	return true
}

// wrote takes in what the API answered to a write of ours.
func (t *table[T]) wrote(object T) {
	t.mu.Lock()
	defer t.mu.Unlock()
	name := nameOf(object)
	object.SetManagedFields(nil)
	if known, ok := t.get(name); ok && isOlder(object, known) {
		return // the watch was faster, and somebody has changed it since
	}
	t.written[name] = written{at: time.Now(), uid: object.GetUID()}
	t.changes[name] = object
}

// removed takes in that a deletion of ours succeeded.
func (t *table[T]) removed(object metav1.Object) {
	t.mu.Lock()
	defer t.mu.Unlock()
	name := nameOf(object)
	known, ok := t.get(name)
	if !ok || known.GetUID() != object.GetUID() {
		return
	}
	t.written[name] = written{at: time.Now(), uid: object.GetUID(), gone: true}
	var gone T
	t.changes[name] = gone
}

// isOlder tells whether a is an earlier version of what b is a version of. Versions of one kind are ordered across objects
// (KEP-5504), so a deleted object of the same name counts too.
func isOlder(a, b metav1.Object) bool {
	order, err := resourceversion.CompareResourceVersion(a.GetResourceVersion(), b.GetResourceVersion())
	return err == nil && order < 0
}

// isSame tells whether two objects of one name are equal. What was reduced has no resource version: most versions of a Pod
// or a Node differ in what nobody here reads.
func isSame[T kube.Object](a, b T) bool {
	if a.GetResourceVersion() != "" || b.GetResourceVersion() != "" {
		return a.GetUID() == b.GetUID() && a.GetResourceVersion() == b.GetResourceVersion()
	}
	return equality.Semantic.DeepEqual(a, b)
}

// get finds an object by name. The caller holds mu.
func (t *table[T]) get(name types.NamespacedName) (T, bool) {
	var zero T
	if object, ok := t.changes[name]; ok {
		return object, any(object) != any(zero)
	}
	i, ok := t.index(name)
	if !ok {
		return zero, false
	}
	return t.sorted[i], true
}

// find is get for those who do not hold mu.
func (t *table[T]) find(name types.NamespacedName) (T, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.get(name)
}

// list gives all objects, sorted. The caller must not change the slice.
func (t *table[T]) list() []T {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.changes) == 0 {
		return t.sorted
	}
	if t.replaceAll() {
		return t.sorted
	}
	var zero T
	fresh := make([]T, 0, len(t.changes))
	for _, object := range t.changes {
		if any(object) != any(zero) {
			fresh = append(fresh, object)
		}
	}
	slices.SortFunc(fresh, func(a, b T) int { return compareNames(nameOf(a), nameOf(b)) })
	merged := make([]T, 0, len(t.sorted)+len(fresh))
	for _, old := range t.sorted {
		name := nameOf(old)
		for len(fresh) > 0 && compareNames(nameOf(fresh[0]), name) < 0 {
			merged, fresh = append(merged, fresh[0]), fresh[1:]
		}
		if _, changed := t.changes[name]; !changed {
			merged = append(merged, old)
		}
	}
	t.sorted = append(merged, fresh...)
	clear(t.changes)
	return t.sorted
}

// replaceAll makes a list of the changes alone, without a look at each object, if all are new versions of objects that it
// has. The caller holds mu.
func (t *table[T]) replaceAll() bool {
	var zero T
	sorted := slices.Clone(t.sorted)
	for name, object := range t.changes {
		i, ok := t.index(name)
		if !ok || any(object) == any(zero) {
			return false
		}
		sorted[i] = object
	}
	t.sorted = sorted
	clear(t.changes)
	return true
}

// index finds an object of the last list by name. The caller holds mu.
func (t *table[T]) index(name types.NamespacedName) (int, bool) {
	return slices.BinarySearchFunc(t.sorted, name, func(object T, name types.NamespacedName) int {
		return compareNames(nameOf(object), name)
	})
}

// reconcile ends the wait for a watch that never showed a write of ours: what the watch has is right by now. It tells whether
// anything changed.
func (t *table[T]) reconcile(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	changed := false
	for name, last := range t.written {
		if now.Sub(last.at) < settled {
			continue
		}
		delete(t.written, name)
		object, there := t.shown(name)
		known, have := t.get(name)
		switch {
		case !there && have:
			var gone T
			t.changes[name] = gone
			changed = true
		case there && (!have || isOlder(known, object)):
			t.changes[name] = object
			changed = true
		}
	}
	return changed
}

// shown finds what the watches have of an object.
func (t *table[T]) shown(name types.NamespacedName) (object T, there bool) {
	for _, store := range t.watched {
		found, there, err := store.GetByKey(cache.NewObjectName(name.Namespace, name.Name).String())
		if there && err == nil { // no store of client-go's gives an error
			return found.(T), true
		}
	}
	return object, false
}
