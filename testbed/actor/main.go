// Command actor does what a test tells it, inside a container: one act after the other, and it says what came of each. A test's image has
// nothing else in it.
//
//	actor ACT [; ACT]...
//
// Under the name tar it is as much of one as `kubectl cp` needs (tar.go).
//
// An act that fails ends it with code 1 and its error on standard error; `try ACT` prints the error and goes on.
package main

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

func main() {
	if filepath.Base(os.Args[0]) == "tar" {
		if err := tarOf(os.Args[1:]); err != nil {
			fmt.Fprintf(os.Stderr, "tar: %v\n", err)
			os.Exit(2)
		}
		return
	}
	for _, act := range split(os.Args[1:]) {
		if err := do(act); err != nil {
			var code exitCode
			if errors.As(err, &code) {
				os.Exit(int(code))
			}
			fmt.Fprintf(os.Stderr, "actor: %s: %v\n", strings.Join(act, " "), err)
			os.Exit(1)
		}
	}
}

func split(words []string) [][]string {
	acts := [][]string{{}}
	for _, word := range words {
		if word == ";" {
			acts = append(acts, nil)
			continue
		}
		acts[len(acts)-1] = append(acts[len(acts)-1], word)
	}
	return acts
}

type exitCode int

func (c exitCode) Error() string { return "ends with code " + strconv.Itoa(int(c)) }

var acts map[string]func(args []string) error

func init() {
	acts = map[string]func([]string) error{
		"say":      func(a []string) error { _, err := fmt.Println(strings.Join(a, " ")); return err },
		"complain": func(a []string) error { _, err := fmt.Fprintln(os.Stderr, strings.Join(a, " ")); return err },
		"flood":    flood,
		"exit":     func(a []string) error { n, err := strconv.Atoi(a[0]); return errors.Join(err, exitCode(n)) },
		"sleep":    func(a []string) error { d, err := time.ParseDuration(a[0]); time.Sleep(d); return err },
		"wait":     wait,
		"stay": func([]string) error {
			signal.Ignore(syscall.SIGTERM, syscall.SIGINT)
			time.Sleep(time.Hour)
			return nil
		},
		"write":   func(a []string) error { return os.WriteFile(a[0], []byte(strings.Join(a[1:], " ")), 0o644) },
		"append":  add,
		"cat":     cat,
		"until":   until,
		"ls":      ls,
		"stat":    stat,
		"link":    func(a []string) error { return os.Symlink(a[0], a[1]) },
		"rename":  func(a []string) error { return os.Rename(a[0], a[1]) },
		"env":     env,
		"id":      id,
		"hog":     hog,
		"fill":    fill,
		"spin":    spin,
		"ticks":   ticks,
		"direct":  direct,
		"fails":   fails,
		"count":   count,
		"threads": threads,
		"connect": connect,
		"fetch":   fetch,
		"tunnel":  tunnel,
		"storm":   storm,
		"serve":   serve,
		"tls":     serveTLS,
		"grpc":    serveGRPC,
		"mount":   func(a []string) error { return syscall.Mount(a[0], a[1], a[2], 0, "") },
		"mknod":   func(a []string) error { return syscall.Mknod(a[0], syscall.S_IFBLK|0o600, 8<<8) },
		"kill":    func(a []string) error { n, _ := strconv.Atoi(a[0]); return syscall.Kill(n, syscall.SIGKILL) },
		"ps":      ps,
		"host":    func([]string) error { name, err := os.Hostname(); fmt.Println(name); return err },
		"listen":  listen,
		"size":    size,
		"resolve": func(a []string) error { found, err := net.LookupHost(a[0]); fmt.Println(found); return err },
		"unshare": func([]string) error { return syscall.Unshare(syscall.CLONE_NEWUSER) },
		"routes":  func([]string) error { return cat([]string{"/proc/self/net/route"}) },
	}
}

func do(act []string) error {
	if len(act) == 0 {
		return nil
	}
	if act[0] == "try" {
		err := do(act[1:])
		fmt.Printf("%s: %v\n", strings.Join(act[1:], " "), err)
		return nil
	}
	run, known := acts[act[0]]
	if !known {
		return errors.New("no such act")
	}
	return run(act[1:])
}

// flood BYTES: prints lines of 100 bytes.
func flood(a []string) error {
	n, err := strconv.Atoi(a[0])
	line := append(bytes.Repeat([]byte{'x'}, 99), '\n')
	for ; n > 0 && err == nil; n -= len(line) {
		_, err = os.Stdout.Write(line)
	}
	return err
}

// wait: until it is asked to end; says so.
func wait([]string) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	fmt.Println("got", <-stop)
	return nil
}

func add(a []string) error {
	file, err := os.OpenFile(a[0], os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(file, strings.Join(a[1:], " "))
	return errors.Join(err, file.Close())
}

func cat(a []string) error {
	for _, path := range a {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		os.Stdout.Write(text)
		if !bytes.HasSuffix(text, []byte("\n")) {
			fmt.Println()
		}
	}
	return nil
}

// until PATH TEXT: waits until the file has the text.
func until(a []string) error {
	for {
		text, _ := os.ReadFile(a[0])
		if strings.TrimSpace(string(text)) == strings.Join(a[1:], " ") {
			fmt.Printf("%s is %s\n", a[0], strings.TrimSpace(string(text)))
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func ls(a []string) error {
	entries, err := os.ReadDir(a[0])
	for _, entry := range entries {
		fmt.Println(filepath.Join(a[0], entry.Name()))
	}
	return err
}

func stat(a []string) error {
	info, err := os.Stat(a[0])
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t)
	fmt.Printf("%s %v %d:%d\n", a[0], info.Mode(), owner.Uid, owner.Gid)
	return nil
}

func env(a []string) error {
	all := os.Environ()
	sort.Strings(all)
	for _, one := range all {
		if len(a) == 0 || strings.HasPrefix(one, a[0]) {
			fmt.Println(one)
		}
	}
	return nil
}

func id([]string) error {
	groups, err := os.Getgroups()
	status, _ := os.ReadFile("/proc/self/status")
	fmt.Printf("uid=%d gid=%d groups=%v\n", os.Getuid(), os.Getgid(), groups)
	for _, line := range strings.Split(string(status), "\n") {
		if strings.HasPrefix(line, "CapEff") || strings.HasPrefix(line, "NoNewPrivs") || strings.HasPrefix(line, "Seccomp:") {
			fmt.Println(strings.Join(strings.Fields(line), " "))
		}
	}
	return err
}

// hog BYTES: holds so much memory, then goes on.
func hog(a []string) error {
	n, err := strconv.Atoi(a[0])
	held := make([]byte, n)
	for at := 0; at < n; at += 4096 {
		held[at] = 1
	}
	fmt.Println("holds", len(held))
	return err
}

// ticks: computes without a pause, and prints what time it is every 2 ms, in nanoseconds.
func ticks([]string) error {
	for last := time.Now(); ; {
		if now := time.Now(); now.Sub(last) >= 2*time.Millisecond {
			fmt.Println(now.UnixNano())
			last = now
		}
	}
}

// fill PATH BYTES: writes a file of so many bytes.
func fill(a []string) error {
	n, err := strconv.ParseInt(a[1], 10, 64)
	if err != nil {
		return err
	}
	file, err := os.Create(a[0])
	if err != nil {
		return err
	}
	_, err = io.CopyN(file, rand.Reader, n)
	return errors.Join(err, file.Close())
}

// fails N FILE: ends with code 3 so often, which is counted in the file; then it goes on.
func fails(a []string) error {
	n, err := strconv.Atoi(a[0])
	if err != nil {
		return err
	}
	text, _ := os.ReadFile(a[1])
	if len(text) >= n {
		return nil
	}
	if err := os.WriteFile(a[1], append(text, 'x'), 0o644); err != nil {
		return err
	}
	return exitCode(3)
}

// spin DURATION: computes for so long by the wall clock, and says how much of a processor it got.
func spin(a []string) error {
	limit, err := time.ParseDuration(a[0])
	begin := time.Now()
	for time.Since(begin) < limit {
	}
	var used syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &used)
	fmt.Printf("used %d ms of %d ms\n", (used.Utime.Nano()+used.Stime.Nano())/1e6, time.Since(begin).Milliseconds())
	return err
}

// count PATH: writes a rising number to a file every 20 ms, for ever.
func count(a []string) error {
	for n := 1; ; n++ {
		if err := os.WriteFile(a[0], []byte(strconv.Itoa(n)), 0o644); err != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// threads N: has so many threads at a time. Without the right to another one Go ends the program, and says how many it had.
func threads(a []string) error {
	n, err := strconv.Atoi(a[0])
	var begun sync.WaitGroup
	for range n {
		begun.Add(1)
		go func() {
			runtime.LockOSThread()
			begun.Done()
			select {}
		}()
	}
	begun.Wait()
	fmt.Println("threads", n)
	return err
}

// connect ADDRESS...: tries to reach each for a second.
func connect(a []string) error {
	var failed error
	for _, address := range a {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			conn.Close()
			fmt.Println("reached", address)
			continue
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

// fetch URL: asks by the proxies that the environment names, whoever signed the server; says the status, and how many bytes came in how
// many milliseconds.
func fetch(a []string) error {
	client := &http.Client{Transport: &http.Transport{
		Proxy:           http.ProxyFromEnvironment,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	begin := time.Now()
	answer, err := client.Get(a[0])
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	start := make([]byte, 200)
	n, err := io.ReadFull(answer.Body, start)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return err
	}
	fmt.Println("status", answer.StatusCode, strings.TrimSpace(strings.TrimRight(string(start[:n]), "\x00")))
	rest, err := io.Copy(io.Discard, answer.Body)
	fmt.Println("bytes", int64(n)+rest, "in", time.Since(begin).Milliseconds())
	return err
}

// proxy connects to the one that the environment names.
func proxy() (net.Conn, error) {
	return net.DialTimeout("tcp", strings.TrimPrefix(os.Getenv("HTTPS_PROXY"), "http://"), time.Second)
}

// tunnel ADDRESS...: asks the proxy for a way to each, and says what it answers; a way that is given is tried.
func tunnel(a []string) error {
	for _, address := range a {
		conn, err := proxy()
		if err != nil {
			return err
		}
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", address, address)
		reader := bufio.NewReader(conn)
		line, err := reader.ReadString('\n')
		if err != nil {
			return err
		}
		fmt.Println("tunnel", address, strings.TrimSpace(line))
		if strings.Contains(line, " 200 ") {
			fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
			all, _ := io.ReadAll(reader)
			fmt.Println("reached", address, len(all))
		}
		conn.Close()
	}
	return nil
}

// storm N: has so many half-said requests at the proxy at a time, as far as it lets it, and says how many bytes of rubbish went there.
func storm(a []string) error {
	n, err := strconv.Atoi(a[0])
	written := 0
	for i := range n {
		conn, err := proxy()
		if err != nil {
			fmt.Println("refused at", i)
			break
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Second))
		more, _ := fmt.Fprintf(conn, "GET http://%s/ HTTP/1.1\r\n%s", strings.Repeat("a", i), strings.Repeat("\x00\xff", i))
		written += more
	}
	fmt.Println("storm", written)
	return err
}

var broken sync.Map

func handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if _, is := broken.Load("it"); is {
			http.Error(w, "broken", http.StatusInternalServerError)
			return
		}
		fmt.Printf("asked %s by %s with %s\n", r.URL, r.UserAgent(), r.Header.Get("X-Test"))
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("/break", func(http.ResponseWriter, *http.Request) { broken.Store("it", true) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/broken", http.StatusFound) })
	mux.HandleFunc("/broken", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "broken on purpose", http.StatusInternalServerError)
	})
	// So many bytes, and how far it came.
	mux.HandleFunc("/bytes/", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/bytes/"))
		piece := make([]byte, 16<<10)
		for sent := 0; sent < n; sent += len(piece) {
			if _, err := w.Write(piece); err != nil {
				fmt.Println("broken off", r.URL.Path)
				return
			}
		}
		fmt.Println("sent", r.URL.Path)
	})
	mux.HandleFunc("/file/", func(w http.ResponseWriter, r *http.Request) {
		if _, err := os.Stat("/" + strings.TrimPrefix(r.URL.Path, "/file/")); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	return mux
}

// serve PORT: answers by HTTP, for ever; ends when asked.
func serve(a []string) error {
	listener, err := net.Listen("tcp", ":"+a[0])
	if err != nil {
		return err
	}
	go http.Serve(listener, handler())
	return wait(nil)
}

// tls PORT: the same, with a certificate that nobody has signed.
func serveTLS(a []string) error {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		return err
	}
	certificate := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}
	listener, err := tls.Listen("tcp", ":"+a[0], &tls.Config{Certificates: []tls.Certificate{certificate}})
	if err != nil {
		return err
	}
	go http.Serve(listener, handler())
	return wait(nil)
}

// grpc PORT: says by gRPC how it is (grpc.health.v1.Health), for ever: well, but for the service "broken".
func serveGRPC(a []string) error {
	listener, err := net.Listen("tcp", ":"+a[0])
	if err != nil {
		return err
	}
	server := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A frame's five bytes, then the first field of the message: the service's name.
		body, _ := io.ReadAll(r.Body)
		serving := byte(1)
		if bytes.HasSuffix(body, []byte("broken")) {
			serving = 2
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		if r.URL.Path != "/grpc.health.v1.Health/Check" {
			w.Header().Set("Grpc-Status", "12")
			return
		}
		w.Write([]byte{0, 0, 0, 0, 2, 8, serving})
		w.Header().Set("Grpc-Status", "0")
	})}
	server.Protocols.SetUnencryptedHTTP2(true)
	go server.Serve(listener)
	return wait(nil)
}

// listen: says back what it hears until there is no more, and how many bytes that were.
func listen([]string) error {
	n, err := io.Copy(os.Stdout, os.Stdin)
	fmt.Println("heard", n)
	return err
}

// size ROWS COLUMNS: waits until its terminal has this size, and says so.
func size(a []string) error {
	for {
		var is struct{ rows, columns, x, y uint16 }
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, 0, syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&is)))
		if errno != 0 {
			return errno
		}
		if fmt.Sprint(is.rows) == a[0] && fmt.Sprint(is.columns) == a[1] {
			fmt.Println("size", is.rows, is.columns)
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func ps([]string) error {
	entries, err := os.ReadDir("/proc")
	for _, entry := range entries {
		if _, no := strconv.Atoi(entry.Name()); no != nil {
			continue
		}
		line, _ := os.ReadFile("/proc/" + entry.Name() + "/cmdline")
		fmt.Println(entry.Name(), strings.ReplaceAll(string(line), "\x00", " "))
	}
	return err
}

// direct PATH BYTES: writes so many to a file past the kernel's cache, and says how many milliseconds that took.
func direct(a []string) error {
	n, err := strconv.Atoi(a[1])
	if err != nil {
		return err
	}
	fd, err := syscall.Open(a[0], syscall.O_WRONLY|syscall.O_CREAT|syscall.O_DIRECT, 0o644)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	// Direct access wants memory at the start of a page.
	block, err := syscall.Mmap(-1, 0, 64<<10, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return err
	}
	since := time.Now()
	for written := 0; written < n; {
		count, err := syscall.Write(fd, block)
		if err != nil {
			return err
		}
		written += count
	}
	fmt.Println("took", time.Since(since).Milliseconds())
	return nil
}
