/* timed FD COMMAND...: runs a command, writes its seconds and the peak memory of its largest process in
 * bytes to FD, and ends with its status.
 *
 * A process begins with the peak memory of the one that it was forked from; this one has next to none,
 * an interpreter's would hide what is measured. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int main(int count, char **words) {
    if (count < 3) {
        fprintf(stderr, "usage: timed FD COMMAND...\n");
        return 125;
    }
    int report = atoi(words[1]);
    double begin = now();
    pid_t child = vfork();
    if (child < 0) {
        perror("timed: vfork");
        return 125;
    }
    if (child == 0) {
        close(report);
        execvp(words[2], words + 2);
        _exit(errno == ENOENT ? 127 : 126);
    }
    int status;
    struct rusage usage;
    while (wait4(child, &status, 0, &usage) < 0) {
        if (errno != EINTR) {
            perror("timed: wait4");
            return 125;
        }
    }
    dprintf(report, "%.6f %ld\n", now() - begin, usage.ru_maxrss * 1024);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
